#!/bin/bash
# Everything that needs a GPU (an H100 or H200), in one go: the tests of the CUDA back end, compute-sanitizer over
# a part of them where it is installed, and the benches. Prints a short table last. Takes ten minutes.
#
#   tools/gpu_check.sh OUT [BUILD]   full results go to the folder OUT; BUILD (default build/cuda) holds the
#                                    programs: bin/fulgur, cuda_*_test, cuda_*_bench. What is missing is built there.
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
if ! nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -q '^9\.'; then
  echo "gpu_check.sh: nvidia-smi names no Hopper GPU (an H100 or H200) on this machine, and all of this needs one." >&2
  exit 1
fi
quick=$([[ ${FULGUR_GPU_CHECK:-} == quick ]] && echo 1 || echo 0)

program() { find "$build" -type f -name "$1" -perm -u+x 2>/dev/null | sort; }
targets=(fulgur cuda_{op_table,select,prepare}_test cuda_{select,hard,prepare}_bench)
for each in "${targets[@]}"; do
  [[ -n $(program "$each") ]] && continue
  cmake --preset cuda -S "$source" -B "$build" -DFULGUR_BENCH=ON >"$out/build.log" 2>&1 &&
    cmake --build "$build" -j --target "${targets[@]}" >>"$out/build.log" 2>&1 ||
    { echo "gpu_check.sh: the build failed; see $out/build.log" >&2; exit 1; }
  break
done

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
done < <(program 'cuda_*_test')

# In small: a case of each op and form, with and without PDL, and each tuned kernel.
smallest=$(printf '*Oracle*/cuda_%s:' 'indexer_select_odd_*' indexer_prepare_odd_bf16_by_bf16_{fused,fp8} \
  mla_prepare_odd_bf16_by_bf16 sparse_mla_odd_bf16_top17)
small='*odd*:*FaultySelection*:*FaultyAttention*'
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [[ $quick == 0 && -x $sanitizer ]]; then
  for tool in memcheck racecheck initcheck; do
    # racecheck is a hundred times slower.
    filter=$([[ $tool == racecheck ]] && echo "$smallest" || echo "$small")
    checked=("$sanitizer" --tool "$tool" --error-exitcode 9)
    run "$tool" 120 "${checked[@]}" "$(program cuda_op_table_test)" --gtest_brief=1 --gtest_filter="$filter"
    [[ $tool == racecheck ]] && checked=("$sanitizer" --tool racecheck)  # what it reports is looked at below
    run "${tool}_select" 120 "${checked[@]}" "$(program cuda_select_test)" --small
    run "${tool}_prepare" 120 "${checked[@]}" "$(program cuda_prepare_test)" quick
  done
  # Explained in docs/performance.md ("racecheck"): keys and scales that warps have read when one lane of each
  # arrives at the barrier that the next copy waits for.
  explained='::bulk_copy(_once)?\(|::BatchProduct<.*>::add\(int\)|::multiply<|::load_(keys|scale)\('
  for each in select prepare; do
    if grep -E '(between|and) (Read|Write) access at' "$out/racecheck_$each.txt" | grep -qvE "$explained"; then
      failed=1
      table+=("racecheck_$each reports what docs/performance.md does not explain")
    fi
  done
fi

tokens=$([[ $quick == 1 ]] && echo 1,128 || echo 1,2,8,32,128)
# bench NAME OPTIONS...: the whole indexer.
bench() { run "$1" 200 "$build/bin/fulgur" bench indexer --device cuda "${@:2}"; }
bench bench_v32 --tokens "$tokens"
if [[ $quick == 0 ]]; then
  bench bench_glm5 --model glm5 --tokens "$tokens"
  for each in v32 glm5; do
    bench "bench_${each}_32k" --own --model "$each" --context 32768 --tokens "$tokens"
    bench "bench_${each}_128k" --own --model "$each" --context 131072 --tokens "$tokens"
  done
  for each in 2 3 4; do  # tokens of a sequence, as when drafts are verified
    bench "bench_v32_by_$each" --own --tokens-per-sequence $each --tokens "$each,$((32 * each))"
  done
  # bench_hard fails where hard scores take more than twice as long as normal ones.
  for each in select hard prepare; do run "bench_$each" 200 "$(program "cuda_${each}_bench")"; done
fi

echo
grep -h '^cuda' "$out/machine.txt"
cat "$out/bench_v32.txt"
if [[ $quick == 0 ]]; then
  for each in v32_32k v32_128k glm5 glm5_32k glm5_128k; do
    echo "$each:"
    grep -hE '^(select|indexer) +own' "$out/bench_$each.txt"
  done
  echo "the selection's kernels:"
  grep -hE '^(decode [0-9]+x8k, early|row scores, then topk (1|32)x128k, early|topk (1x8k|128x32k|32x128k) normal|prompt scores \+ topk 8192 )' "$out/bench_select.txt"
  echo "hard scores: us of normal ones, the largest ratio to them:"
  sed -nE 's/^(top-k|decode|prompt|scores)(.{26})( +[0-9.]+) .* ([0-9.]+( TOO SLOW)?)$/\1\2\3 \4/p' "$out/bench_hard.txt"
  echo "the preparation's, with PDL:"
  grep -hE '^V3.2 .*M=(1|8|32|128|8192) PDL' "$out/bench_prepare.txt"
fi
printf '%s\n' "${table[@]}"
exit $failed
