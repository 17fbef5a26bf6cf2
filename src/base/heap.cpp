#include "base/heap.h"

#include <malloc.h>

#include <cstdlib>

namespace trestle {

void settle_heap() {
  // libtorch's own switch, which it reads once: 2 MiB and more are aligned to it and advised.
  ::setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
#ifdef __GLIBC__
  // Either call ends glibc's own adjustment, which goes by what was freed first: by chance.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

}  // namespace trestle
