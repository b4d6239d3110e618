#pragma once

// Launches of an op on its context's stream. Apart from launch.h: kernels of plain arguments compile in half
// the time without what a stream is.

#include "kernels/cuda/launch.h"
#include "kernels/cuda/stream.h"

namespace fulgur::cuda {

/// launch_kernel() on `on`, the main or the side stream. With PDL on, it may start while its predecessor on
/// that stream still runs, so every CTA of every kernel calls wait_for_predecessor() before it reads or
/// writes what another kernel touches, also where it has nothing to do: the wait of a successor then covers
/// all kernels before. `name` is what an error calls it.
template <typename... Params, typename... Args>
void launch_on(cudaStream_t on, const Stream& stream, const char* name, Grid grid, void (*kernel)(Params...),
               Args&&... args) {
  grid.pdl = grid.pdl && stream.pdl();
  check(launch_kernel(kernel, grid, on, std::forward<Args>(args)...), name);
}

template <typename... Params, typename... Args>
void launch(const Stream& stream, const char* name, const Grid& grid, void (*kernel)(Params...),
            Args&&... args) {
  launch_on(stream.main(), stream, name, grid, kernel, std::forward<Args>(args)...);
}

}  // namespace fulgur::cuda
