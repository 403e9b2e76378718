"""The tables of docs/accuracy.md: what each compares, and over which samples."""
from dataclasses import dataclass

# What --backend cuda runs; all others answer on the CPU from the prompts that it has read.
ON_DEVICE = ("full", "quest", "freekv", "freekv:sketch=key2", "freekv:tau=2,sketch=key2",
             "freekv-coverage")
BASELINES = ("streaming", "razor", "raas", "snapkv", "arkvale", "shadowkv:rank=32", "infinigen",
             "oracle")
ALL = ("full", *BASELINES[:4], "h2o", "quest", *BASELINES[4:], *ON_DEVICE[2:])
SUITE = "ruler,chain,ledger,copy-json"
OTHERS = ",".join([*(f"ruler/{task}" for task in (
    "niah-single", "niah-multi-key-words", "niah-multi-key-uuids", "niah-multi-value",
    "niah-multi-query", "variable-tracking", "variable-tracking-3-chains", "common-words",
    "frequent-words")), "ledger", "copy-json"])  # all but niah-multi-key and chain
HARD = ("ruler/niah-multi-key", "chain", "ledger")  # one search, many searches, long answers
# What the suite compares: the default and what waits for more.
EPSILONS = {"0.07": "freekv-coverage", "0.05": "freekv-coverage:epsilon=0.05"}
QUEST_KEY2 = "quest:sketch=key2,pooling=mean_softmax,dense_layers=0"
COMPARED = ("full", "quest", "freekv", "freekv:sketch=key2", "freekv-coverage")
SKETCHES = ("minmax", "cuboid", "mean", "key2", "minmax+key2")
POOLINGS = ("mean_softmax", "max_softmax", "mean_score", "max_score")
SAMPLES = 200
# The demo model was trained up to 32K, and answers nothing at 128K without.
TO_128K = ("--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "32768")


@dataclass
class Table:
    """One section of the document: its heading and what `freekv eval` is given."""

    title: str
    suites: str
    contexts: str
    policies: tuple
    budgets: str = "512"
    sink: int = 64
    window: int = 128
    further: tuple = ()
    samples: int = SAMPLES
    gpu: bool = True
    host: bool = False  # made on cores that the other tables leave
    parallel: int = 64  # at most: what fits into memory for all processes
    # Methods are shared out among processes instead of samples: one answers all samples at once.
    apart: bool = False

    def arguments(self, suites: str = "", policies: tuple = ()) -> list[str]:
        """With some of the table's suites or policies instead of all, if given."""
        backend = ("--backend", "cuda", "--kv-type", "bf16", "--seed", "9") if self.gpu else ()
        return ["--suite", suites or self.suites, "--context", self.contexts,
                "--budgets", self.budgets, "--sink", str(self.sink), "--window", str(self.window),
                *backend, *self.further, "--policies", *(policies or self.policies)]


def swept(policy: str, key: str, values: tuple) -> tuple:
    """full, and the policy with each value of one key."""
    joined = "," if ":" in policy else ":"
    return ("full", *(f"{policy}{joined}{key}={value}" for value in values))


# In the order in which they are made: first what may keep a process for minutes with one sample, so
# that nobody waits for it in the end.
TABLES = {
    # Without h2o, whose accumulated attention takes a core 14 s at 16K and 64 times as long here.
    "policies-128k-tasks": Table("All policies on all other tasks at 128K", OTHERS, "131072",
                                 (*ON_DEVICE, *BASELINES), further=TO_128K, samples=3, parallel=1),
    "policies-128k": Table("All policies at 128K", "ruler/niah-multi-key,chain", "131072",
                           (*ON_DEVICE, *BASELINES), further=TO_128K, samples=16, parallel=1),
    # The whole suite with what its bars are about.
    "suite": Table("The suite at 32K", SUITE, "32768",
                   ("full", "freekv:sketch=key2", "freekv:tau=0.9,sketch=key2",
                    *EPSILONS.values()), "512,2048"),
    # tau = 2 waits for the selection of the current query, as Quest does from fast memory, and
    # tau = -1 never.
    "algorithm": Table("The algorithm apart from the system", ",".join(HARD), "32768",
                       ("full", "quest", QUEST_KEY2, "freekv:tau=-1", "freekv", "freekv:tau=2",
                        "freekv:tau=-1,sketch=key2", "freekv:sketch=key2",
                        "freekv:tau=2,sketch=key2", "freekv-coverage")),
    # Without h2o, which has tables of its own with fewer samples.
    "policies": Table("All policies at 32K", "ruler/niah-multi-key,chain", "32768",
                      (*ON_DEVICE, *BASELINES), samples=48),
    "policies-tasks": Table("All policies on all other tasks at 32K", OTHERS, "32768",
                            (*ON_DEVICE, *BASELINES), samples=12),
    "h2o": Table("h2o at 32K", "ruler/niah-multi-key,chain", "32768", ("full", "h2o"),
                 samples=16, host=True, parallel=1),
    "h2o-tasks": Table("h2o on all other tasks at 32K", OTHERS, "32768", ("full", "h2o"),
                       samples=3, host=True, parallel=1),
    # For two CPU cores: the bar of 100 samples, 50 of each task, in 20 minutes is measured with it.
    "policies-8k": Table("All policies at 8K with 512 tokens, on the CPU",
                         "ruler/niah-multi-key,chain", "8192",
                         ALL, samples=50, gpu=False, host=True),
    "policies-8k-tasks": Table("All policies on all other tasks at 8K with 512 tokens, on the CPU",
                               OTHERS, "8192", ALL, samples=12, gpu=False, host=True),
    "tau": Table("Correction by cosine", ",".join(HARD), "32768",
                 swept("freekv:sketch=key2", "tau", ("0.7", "0.75", "0.8", "0.85", "0.9", "0.95")),
                 samples=100),
    "tau-minmax": Table("Correction by cosine with box sketches", ",".join(HARD), "32768",
                        ("full", "quest", "freekv:tau=-1", "freekv:tau=0.7", "freekv",
                         "freekv:tau=0.9", "freekv:tau=2"), samples=100),
    "epsilon": Table("Correction by missing attention mass", ",".join(HARD), "32768",
                     swept("freekv-coverage", "epsilon",
                           ("0.2", "0.1", "0.07", "0.05", "0.02", "0.01")),
                     samples=100),
    "budget": Table("Budgets", ",".join(HARD), "32768", COMPARED, "256,1024,2048,4096",
                    samples=100),
    # A budget of 128 has no room beside the sink and window of the other tables.
    "budget-128": Table("Budget of 128", ",".join(HARD), "32768", COMPARED, "128",
                        sink=32, window=32, samples=100),
    # Most sketches are the host's alone: on the CPU, at 8K.
    "sketches": Table("Sketches and poolings at 8K, on the CPU", "ruler/niah-multi-key,chain",
                      "8192", ("full", *(f"quest:sketch={s},pooling={p},dense_layers=0"
                                         for s in SKETCHES for p in POOLINGS)),
                      samples=30, gpu=False, host=True),
    "pages": Table("Tokens per page", ",".join(HARD), "32768",
                   ("full", "freekv", "freekv:sketch=key2", "freekv-coverage"), "512",
                   further=("--pages", "16,32,64"), samples=100),
    # Prompts of 53K tokens, past the 32K of the model's training: how far methods part, no scores.
    "generation": Table("Generations of 32K tokens", "ledger", "65536",
                        ("full", "freekv", "freekv:sketch=key2", "freekv-coverage"), "2048",
                        further=("--entries", "1200", "-n", "32768"), samples=8, apart=True),
    # What limits agreement with dense attention: exact page masses and more tokens.
    "agreement": Table("Agreement where it is least", "ruler/variable-tracking,"
                       "ruler/niah-multi-query,ruler/common-words,ruler/frequent-words", "32768",
                       ("full", "oracle", "freekv:tau=2,sketch=key2", "freekv-coverage",
                        "freekv-coverage:epsilon=0.01"), "2048,8192", samples=48),
    # What the pages are worth that are not attended to; with this sketch the host answers.
    "values": Table("Mean values of the pages that are not attended to", SUITE, "32768",
                    ("full", "freekv-coverage", "freekv-coverage:sketch=key2+values"), "512,2048",
                    samples=24),
    # The suite's tightest cell at this budget, with more samples.
    "tracking": Table("Variable tracking of three chains, 1,000 samples",
                      "ruler/variable-tracking-3-chains", "32768",
                      ("full", "freekv:tau=0.9,sketch=key2", *EPSILONS.values()), "2048",
                      samples=1000),
    "128k": Table("128K", "ruler/niah-multi-key,chain", "131072", COMPARED, "512,2048",
                  further=TO_128K, samples=100, parallel=4),
    # A larger epsilon than the suite's, where its bars at this budget are tight.
    "epsilon-2048": Table("Missing attention mass with 2,048 tokens",
                          "ruler/variable-tracking,ruler/variable-tracking-3-chains,chain,ledger",
                          "32768", swept("freekv-coverage", "epsilon", ("0.1",)), "2048"),
}
