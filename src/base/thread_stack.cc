#include "base/thread_stack.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <new>
#include <string>

#include "base/error.h"
#include "base/page_bytes.h"

namespace fulgur {
// It is what the limit was when the process began.
size_t default_stack_bytes() {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return kLeastStackBytes;
  size_t bytes = kLeastStackBytes;
  pthread_attr_getstacksize(&attributes, &bytes);
  pthread_attr_destroy(&attributes);
  return bytes;
}

void check_stack_limit() {
  size_t bytes = default_stack_bytes();
  rlimit limit{};
  if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    bytes = std::min<size_t>(bytes, limit.rlim_cur);
  if (bytes >= kLeastStackBytes) return;
  throw Error(Problem{.kind = ErrorKind::kDevice,
                      .message = "The stack that a thread may have is too small to compute on.",
                      .expected = std::to_string(kLeastStackBytes) + " bytes",
                      .found = std::to_string(bytes),
                      .todo = "raise the limit before the program starts: ulimit -s 8192"});
}

void check_stack_room(size_t bytes) {
  void* const room = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) throw std::bad_alloc();
  munmap(room, bytes);
}

[[gnu::noinline]] void settle_stack(size_t bytes) {
  auto* stack = static_cast<volatile char*>(__builtin_alloca(bytes));
  // From the top, as it grows: a page is given only near those that are there.
  for (size_t below = 1; below <= bytes; below += kLeastPageBytes) stack[bytes - below] = 0;
}

}  // namespace fulgur
