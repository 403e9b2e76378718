# Sourced on a machine with a GPU: puts cuBLAS, which is too large to be carried, on the library
# path. It comes from the toolkit or from NVIDIA's Python packages, whichever this machine has.
for folder in /usr/local/cuda/lib64 /usr/local/cuda/targets/*/lib \
  $(python3 -c 'import site, sys; print(*site.getsitepackages(), *sys.path)' 2>/dev/null |
    tr ' ' '\n' | sed 's|$|/nvidia/cu13/lib|;p;s|cu13/lib$|cublas/lib|'); do
  if [[ -e $folder/libcublasLt.so.13 ]]; then
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
    break
  fi
done
