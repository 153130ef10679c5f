#!/usr/bin/env bash
# Compiles check.cpp against the libtorch inside the torch wheel of $PYTHON (default python3): ./build.sh [PROGRAM]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=${1:-$here/check}
python=${PYTHON:-python3}

torch=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
# A library and its users must agree on how std::string is laid out.
abi=$("$python" -c 'import torch; print(int(torch.compiled_with_cxx11_abi()))')

exec "${CXX:-g++}" -std=c++20 -O1 -Wall -Wextra -Werror -D_GLIBCXX_USE_CXX11_ABI="$abi" \
    -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" \
    "$here/check.cpp" -o "$program" \
    -L"$torch/lib" -Wl,-rpath,"$torch/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10
