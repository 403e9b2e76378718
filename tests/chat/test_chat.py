#!/usr/bin/env python3
"""freekv chat in a pseudo-terminal, as a person uses it, and behind a pipe."""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "build/release/bin/freekv"
MODEL = ROOT / "models/freekv-demo.gguf"
TIMEOUT = 60  # seconds: machines that run tests are busy
LONG = "a"  # the demo model never ends its answer to this

checks = failures = 0


def check(name: str, holds: bool, detail: object = "") -> None:
    global checks, failures
    checks += 1
    if not holds:
        failures += 1
        print(f"FAILED {name}: {detail}")


class Terminal:
    """A session in a terminal of 100 columns."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [PROGRAM, "chat", "-m", MODEL, "--threads", "2", *map(str, arguments)], stdin=slave,
            stdout=slave, stderr=slave, preexec_fn=own_terminal,
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
        os.close(slave)
        self.screen = ""  # since the last send, without control sequences
        self.raw = b""

    def send(self, text: str, end: str = "\r") -> None:
        self.raw, self.screen = b"", ""
        os.write(self.master, (text + end).encode())

    def read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            block = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += block
        text = self.raw.decode(errors="ignore")
        self.screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]", "", text).replace("\r", "")
        return bool(block)

    def until(self, pattern: str) -> bool:
        end = time.time() + TIMEOUT
        while not re.search(pattern, self.screen, re.S):
            if time.time() > end or (not self.read(1) and self.process.poll() is not None):
                return False
        return True

    def ask(self, text: str, prompt: str = r"\n> $") -> str:
        """What is on the screen when the next prompt has come."""
        self.send(text)
        self.until(prompt)
        return self.screen

    def ended(self) -> int | None:
        try:
            while self.read(0.1):
                pass
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


def conversation(folder: pathlib.Path) -> None:
    chat = Terminal("-n", 12, "--budget", 96, "--window", 32, "--sink", 16, "--page", 8)
    check("prompt", chat.until(r"FreeKV demo.*policy full.*/help.*\n> $"), chat.screen)
    check("no answer yet", "no answer yet" in chat.ask("/stats"), chat.screen)
    screen = chat.ask("What is the magic word?")
    check("an answer", re.search(r"word\?\n\S.+\n(\[stopped after 12 tokens.*\n)?> $", screen), screen)
    screen = chat.ask("/stats")
    check("stats", re.search(r"of which 0 were kept.*decode +\d+ tokens.*KV", screen, re.S), screen)
    screen = chat.ask("And another?")
    check("history is kept", re.search(r"of which [1-9]\d* were kept", chat.ask("/stats")), chat.screen)

    check("policy", "full, budget 96" in chat.ask("/policy"), chat.screen)
    check("policy changes", "freekv:tau=0.9, budget 96" in chat.ask("/policy freekv:tau=0.9"),
          chat.screen)
    chat.ask("A third, and a long one, so that the context no longer fits the budget of tokens?")
    check("freekv retrieves", re.search(r"of which [1-9].*pages +\d+ selected", chat.ask("/stats"),
                                        re.S), chat.screen)
    for command, error in (("/policy nosuch", "nosuch.*full"), ("/policy freekv:speed=1", "speed"),
                           ("/frobnicate", "no command /frobnicate.*/help"),
                           ("/save", "/save needs a file"), ("/clear x", "/clear takes nothing"),
                           ("/save /nosuch/folder/file", "/nosuch/folder/file.*[Nn]o such"),
                           (f"/load {folder}", "is a directory"), ("/load /nosuch", "[Nn]o such")):
        screen = chat.ask(command)
        check(f"bad {command}", re.search(error, screen) and screen.count("\n") == 2, screen)
    check("the policy stays", "freekv:tau=0.9" in chat.ask("/policy"), chat.screen)
    check("help", "/policy SPEC" in chat.ask("/help"), chat.screen)

    file = folder / "kept.json"
    check("save", "6 messages saved" in chat.ask(f"/save {file}"), chat.screen)
    saved = json.loads(file.read_text())
    check("saved", [m["role"] for m in saved["messages"]] == ["user", "assistant"] * 3
          and saved["messages"][0]["content"] == "What is the magic word?"
          and saved["options"]["policy"] == "freekv:tau=0.9", saved)
    check("nothing else is left", [p.name for p in folder.iterdir()] == ["kept.json"])
    chat.ask("/clear")
    chat.ask(f"/save {file}.empty")
    check("cleared", json.loads((folder / "kept.json.empty").read_text())["messages"] == [])
    check("load", "6 messages loaded" in chat.ask(f"/load {file}"), chat.screen)
    chat.ask(f"/save {file}")
    check("loading and saving changes nothing", json.loads(file.read_text()) == saved)
    for name, text, error in (
            ("no JSON", "{", "is not JSON"), ("a list", "[]", "format"),
            ("another format", '{"format": "x"}', "format"),
            ("no messages", '{"format": "freekv conversation 1", "model": "m"}', "messages"),
            ("a message without text", json.dumps({**saved, "messages": [{"role": "user"}]}),
             "message 1.*content")):
        bad = folder / "bad.json"
        bad.write_text(text)
        screen = chat.ask(f"/load {bad}")
        check(f"load {name}", re.search(f"bad.json.*{error}", screen) and screen.count("\n") == 2,
              screen)
    check("the conversation stays", "6 messages saved" in chat.ask(f"/save {file}"), chat.screen)
    chat.send("/quit")
    check("/quit", chat.ended() == 0, chat.screen)


def lines(folder: pathlib.Path) -> None:
    """Several lines in one message, editing, pasting, Ctrl-C at the prompt, the end of input."""
    chat = Terminal("-n", 2, "--system", "Be brief.")
    chat.until(r"\n> $")
    chat.ask("first \\", r"\n\.\.\. $")
    chat.ask("second")
    chat.ask('"""block', r"\n\.\.\. $")
    chat.ask("  indented", r"\n\.\.\. $")
    chat.ask('end"""')
    chat.ask("wrong\x01\x0bright é🦙")  # to the line's begin, cut it, another text
    chat.ask("\x1b[200~pasted\nlines\x1b[201~")
    chat.ask("//literal")
    chat.send("abandoned", end="\x03")
    check("Ctrl-C at the prompt", chat.until(r"\^C\n> $"), chat.screen)
    chat.ask('"""also', r"\n\.\.\. $")
    chat.send("abandoned", end="\x03")
    check("Ctrl-C in a block", chat.until(r"\^C\n> $"), chat.screen)
    chat.send("", end="\x1b[A")  # the last line again
    check("history of lines", chat.until("//literal|also"), chat.screen)
    chat.send("", end="\x03")
    chat.until(r"\^C\n> $")
    file = folder / "lines.json"
    chat.ask(f"/save {file}")
    said = [m["content"] for m in json.loads(file.read_text())["messages"] if m["role"] != "assistant"]
    check("messages", said == ["Be brief.", "first \nsecond", "block\n  indented\nend", "right é🦙",
                               "pasted\nlines", "/literal"], said)
    chat.send("", end="\x04")
    check("Ctrl-D", chat.ended() == 0, chat.screen)


def interrupted() -> None:
    chat = Terminal("-n", 100000)
    chat.until(r"\n> $")
    chat.send(LONG)
    check("streams", chat.until(r"a\n.{40}"), chat.screen)
    before = len(chat.screen)
    check("goes on", chat.until("(?s).{%d}" % (before + 200)), chat.screen)
    os.write(chat.master, b"\x03\x03")
    check("Ctrl-C stops the answer", chat.until(r"\[stopped\]\n.*> $"), chat.screen[-300:])
    check("the session goes on", re.search(r"decode.*cancelled", chat.ask("/stats")), chat.screen)
    chat.send("", end="\x03")
    chat.until(r"\^C\n> $")
    check("alive", chat.process.poll() is None)
    chat.send(LONG)
    chat.until(r"a\n.{40}")
    chat.process.send_signal(signal.SIGINT)
    check("a signal does the same", chat.until(r"\[stopped\]\n.*> $"), chat.screen[-300:])
    chat.send("", end="\x04")
    check("ends", chat.ended() == 0, chat.screen)


def document(folder: pathlib.Path) -> None:
    """The document is read before the first question, and is part of it."""
    text = (ROOT / "models/demo_document.txt").read_text()[:6000]
    (folder / "document.txt").write_text(text + "\n\n")
    chat = Terminal("-n", 4, "-f", folder / "document.txt")
    chat.until(r"\n> $")
    chat.ask("What is it about?")
    kept = re.search(r"prompt +([\d,]+) tokens, of which ([\d,]+) were kept", chat.ask("/stats"))
    tokens, known = (int(n.replace(",", "")) for n in kept.groups()) if kept else (0, 0)
    check("the document was read ahead", tokens > 1000 and tokens - known < 30, chat.screen)
    chat.ask(f"/save {folder / 'd.json'}")
    first = json.loads((folder / "d.json").read_text())["messages"][0]["content"]
    check("its place", first == text.rstrip("\n") + "\n\nWhat is it about?", first[-80:])
    chat.send("/quit")
    check("ends", chat.ended() == 0)


def piped() -> None:
    """No prompts, no control sequences; answers alone on standard output."""
    done = subprocess.run([PROGRAM, "chat", "-m", MODEL, "-n", "5", "--threads", "2"],
                          input=b"hello\n/stats\n/nosuch\n\nhello again", capture_output=True,
                          timeout=TIMEOUT)
    check("piped", done.returncode == 0 and done.stdout.count(b"\n") == 2
          and b"\x1b" not in done.stdout + done.stderr and b"> " not in done.stdout, done)
    check("piped statistics", b"decode" in done.stderr and b"/nosuch" in done.stderr, done.stderr)
    long = subprocess.run([PROGRAM, "chat", "-m", MODEL, "--ctx", "32", "--threads", "2"],
                          input=b"word " * 100 + b"\n/clear\nhi\n", capture_output=True,
                          timeout=TIMEOUT)
    check("beyond the context", long.returncode == 0 and long.stdout.count(b"\n") == 1
          and re.search(rb"has \d+ tokens, the context limit is 32; /clear", long.stderr), long)


def main() -> None:
    for test in (conversation, lines, document):
        with tempfile.TemporaryDirectory() as folder:
            test(pathlib.Path(folder))
    interrupted()
    piped()
    print(f"{checks - failures} passed, {failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
