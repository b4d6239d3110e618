// Entries of the table whose kernels don't exist yet. Whoever writes one takes its line out here.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

[[noreturn]] void not_written(const char* op) {
  throw std::logic_error(std::string("no CPU kernel yet for ") + op);
}

}  // namespace

void mla_output(Context&, const MlaOutput&) { not_written("mla_output"); }
void ffn(Context&, const Ffn&) { not_written("ffn"); }
void moe(Context&, const Moe&) { not_written("moe"); }
void sample(Context&, const Sample&) { not_written("sample"); }

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
