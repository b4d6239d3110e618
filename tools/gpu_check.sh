#!/bin/bash
# Everything that needs a GPU (an H100 or H200), in one go: the tests of the CUDA back end, compute-sanitizer over
# a part of them where it is installed, and the bench. Prints a short table last.
#
#   tools/gpu_check.sh OUT [BUILD]   full results go to the folder OUT; BUILD (default build/cuda) holds the
#                                    programs: bin/fulgur and the cuda_*_test. What is missing is built there.
#
# FULGUR_GPU_CHECK=quick: no sanitizer, and the bench at two numbers of tokens.
set -uo pipefail

if [[ $# -lt 1 || $# -gt 2 || $1 == -* ]]; then
  sed -n '2,9s/^# \?//p' "$0" >&2
  exit 2
fi
out=$1
source=$(cd "$(dirname "$0")/.." && pwd)
build=${2:-$source/build/cuda}
mkdir -p "$out" || exit 1
quick=$([[ ${FULGUR_GPU_CHECK:-} == quick ]] && echo 1 || echo 0)

find_tests() { find "$build" -type f -name 'cuda_*_test' -perm -u+x 2>/dev/null | sort; }
if [[ ! -x $build/bin/fulgur || -z $(find_tests) ]]; then
  cmake --preset cuda -S "$source" -B "$build" -DFULGUR_BENCH=OFF >"$out/build.log" 2>&1 &&
    cmake --build "$build" -j --target fulgur cuda_op_table_test cuda_select_test cuda_prepare_test >>"$out/build.log" 2>&1 ||
    { echo "gpu_check.sh: the build failed; see $out/build.log" >&2; exit 1; }
fi

{ "$build/bin/fulgur" info; nvidia-smi; } >"$out/machine.txt" 2>&1
failed=0
table=()
# run NAME SECONDS COMMAND...: output to OUT/NAME.txt, a line of the table.
run() {
  local name=$1 limit=$2 started=$SECONDS verdict=passed
  shift 2
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1
  local status=$?
  if [[ $status -eq 124 ]]; then verdict="stopped after $limit s"; elif [[ $status -ne 0 ]]; then verdict="FAILED ($status)"; fi
  grep -q 'No kernel was tested' "$out/$name.txt" && verdict="skipped: no GPU"
  [[ $verdict == passed ]] || failed=1
  table+=("$(printf '%-24s %-22s %4d s  %s' "$name" "$verdict" $((SECONDS - started)) "$(grep -E '^\[  (PASSED|FAILED)  \]' "$out/$name.txt" | head -1)")")
}

while read -r test; do
  run "$(basename "$test")" 300 "$test" --gtest_brief=1
done < <(find_tests)

# In small: a case of each op and form, with and without PDL.
smallest=$(printf '*Oracle*/cuda_%s:' 'indexer_select_odd_*' indexer_prepare_odd_bf16_by_bf16_{fused,fp8} \
  mla_prepare_odd_bf16_by_bf16 sparse_mla_odd_bf16_top17)
small='*odd*:*FaultySelection*:*FaultyAttention*'
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [[ $quick == 0 && -x $sanitizer ]]; then
  for tool in memcheck racecheck initcheck; do
    # racecheck is a hundred times slower.
    filter=$([[ $tool == racecheck ]] && echo "$smallest" || echo "$small")
    run "$tool" 120 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$build/tests/unit/ops/cuda_op_table_test" --gtest_brief=1 --gtest_filter="$filter"
  done
fi

tokens=$([[ $quick == 1 ]] && echo 1,128 || echo 1,2,8,32,128)
run bench_v32 200 "$build/bin/fulgur" bench indexer --device cuda --tokens "$tokens"
if [[ $quick == 0 ]]; then
  run bench_glm5 200 "$build/bin/fulgur" bench indexer --device cuda --model glm5 --tokens "$tokens"
  run bench_v32_32k 200 "$build/bin/fulgur" bench indexer --device cuda --context 32768 --tokens 1,8,32
  for each in 2 4; do  # tokens of a sequence, as when drafts are verified
    run "bench_v32_by_$each" 200 "$build/bin/fulgur" bench indexer --device cuda --tokens-per-sequence $each --tokens "$each,$((32 * each))"
  done
fi

echo
grep -h '^cuda' "$out/machine.txt"
cat "$out/bench_v32.txt"
printf '%s\n' "${table[@]}"
exit $failed
