// The table of ops of one instruction set.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/memory.h"

#define FULGUR_STRING_OF(x) #x
#define FULGUR_STRING(x) FULGUR_STRING_OF(x)

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Measured: the deepest are products of an expert's tiles, whose sums of a block are a register wide.
constexpr size_t kStackBytes = (44 << 10) + kLanes * (6 << 10);

extern const Backend kBackend;
constinit const Backend kBackend = {
    .name = "cpu " FULGUR_STRING(FULGUR_CPU_ISA),
    .fp8_keys = true,
    .mixed_caches = true,
    .later_start = true,
    .stack_bytes = kStackBytes,
    .allocate = cpu::allocate,
    .release = cpu::release,
    .settle = cpu::settle,
    .upload = cpu::copy,
    .download = cpu::copy,
    .least_index_scratch = least_index_scratch,
    .embed = embed,
    .mtp_input = mtp_input,
    .rms_norm = rms_norm,
    .add_rms_norm = add_rms_norm,
    .linear = linear,
    .lm_head = lm_head,
    .attention_prepare = nullptr,
    .mla_prepare = mla_prepare,
    .indexer_prepare = indexer_prepare,
    .indexer_select = indexer_select,
    .indexer_scores = indexer_scores,
    .sparse_mla = sparse_mla,
    .dense_mla = dense_mla,
    .mla_output = mla_output,
    .ffn = ffn,
    .moe = moe,
    .sample = sample,
};

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
