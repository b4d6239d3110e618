#pragma once

// The ops of one instruction set. Each is defined in the file of its name; table.cc lists them.

#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

void embed(Context& context, const Embed& op);
void mtp_input(Context& context, const MtpInput& op);
void rms_norm(Context& context, const RmsNorm& op);
void add_rms_norm(Context& context, const AddRmsNorm& op);
void linear(Context& context, const Linear& op);
void lm_head(Context& context, const LmHead& op);
void mla_prepare(Context& context, const MlaPrepare& op);
void indexer_prepare(Context& context, const IndexerPrepare& op);
int64_t least_index_scratch(const IndexerShape& shape, int64_t topk, int64_t max_context, int threads);
void indexer_select(Context& context, const IndexerSelect& op);
void indexer_scores(Context& context, const IndexerScores& op);
void sparse_mla(Context& context, const SparseMla& op);
void dense_mla(Context& context, const DenseMla& op);
void mla_output(Context& context, const MlaOutput& op);
void ffn(Context& context, const Ffn& op);
void moe(Context& context, const Moe& op);
void sample(Context& context, const Sample& op);

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
