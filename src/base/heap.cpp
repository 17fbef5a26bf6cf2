#include "base/heap.h"

#include <malloc.h>

namespace trestle {

void keep_freed_memory() {
#ifdef __GLIBC__
  // Either call ends glibc's own adjustment, which goes by what was freed first: by chance.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

}  // namespace trestle
