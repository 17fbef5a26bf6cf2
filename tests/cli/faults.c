// Preloaded by test_crash.py: counts the calls that change files and, at the $FAULT_AT-th, either
// kills the process (FAULT=kill; of a write, half is done) or makes it and all later ones that need
// space fail with an errno (FAULT=28: no space left), or flips a bit of what it writes (FAULT=flip,
// only writes at an offset count). With FAULT_LOG the count goes into that file. With
// FAULT_THREADS=n the n-th thread and all later ones are refused, as where ulimit -u is reached.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long count;
static long fault_at;  // 0: never
static int fault_errno;  // 0: kill
static int fault_flip;
static atomic_long threads;
static long threads_until;  // 0: no bound

__attribute__((constructor)) static void start(void) {
  const char* at = getenv("FAULT_AT");
  const char* fault = getenv("FAULT");
  fault_at = at ? atol(at) : 0;
  const char* until = getenv("FAULT_THREADS");
  threads_until = until ? atol(until) : 0;
  fault_flip = fault && strcmp(fault, "flip") == 0;
  fault_errno = fault && !fault_flip && strcmp(fault, "kill") != 0 ? atoi(fault) : 0;
}

__attribute__((destructor)) static void finish(void) {
  const char* path = getenv("FAULT_LOG");
  if (!path) return;
  FILE* file = fopen(path, "w");
  if (!file) return;
  fprintf(file, "%ld\n", atomic_load(&count));
  fclose(file);
}

// Whether this call is the one to fall on (kill), or at or behind it (errno).
static int strikes(void) {
  const long now = atomic_fetch_add(&count, 1) + 1;
  return fault_at > 0 && (fault_errno ? now >= fault_at : now == fault_at);
}

static void die(void) {
  kill(getpid(), SIGKILL);
  pause();
}

static int is_file(int fd) {
  struct stat info;
  return fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// A call that needs space: killed before it, or failed.
#define NEEDS_SPACE()            \
  do {                           \
    if (!fault_flip && strikes()) { \
      if (!fault_errno) die();   \
      errno = fault_errno;       \
      return -1;                 \
    }                            \
  } while (0)
// A call that only takes away: killed before it, never failed.
#define TAKES_AWAY()                       \
  do {                                     \
    if (!fault_flip && strikes() && !fault_errno) die();  \
  } while (0)

static ssize_t guarded_pwrite(int fd, const void* data, size_t size, off_t offset) {
  if (is_file(fd) && strikes()) {
    if (fault_errno) {
      errno = fault_errno;
      return -1;
    }
    if (fault_flip && size > 0) {
      char* copy = malloc(size);
      memcpy(copy, data, size);
      copy[size / 2] ^= 1;
      const ssize_t done = NEXT(pwrite)(fd, copy, size, offset);
      free(copy);
      return done;
    }
    NEXT(pwrite)(fd, data, size / 2, offset);
    die();
  }
  return NEXT(pwrite)(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return guarded_pwrite(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return guarded_pwrite(fd, data, size, offset);
}
ssize_t write(int fd, const void* data, size_t size) {
  if (is_file(fd) && fd > 2) NEEDS_SPACE();
  return NEXT(write)(fd, data, size);
}
ssize_t writev(int fd, const struct iovec* parts, int n) {
  if (is_file(fd) && fd > 2) NEEDS_SPACE();
  return NEXT(writev)(fd, parts, n);
}

static int guarded_open(const char* path, int flags, mode_t mode) {
  if (flags & O_CREAT) NEEDS_SPACE();
  return NEXT(open)(path, flags, mode);
}
#define MODE_OF(flags)                 \
  mode_t mode = 0;                     \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest;                      \
    va_start(rest, flags);             \
    mode = va_arg(rest, mode_t);       \
    va_end(rest);                      \
  }
int open(const char* path, int flags, ...) {
  MODE_OF(flags)
  return guarded_open(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  MODE_OF(flags)
  return guarded_open(path, flags, mode);
}

int mkdir(const char* path, mode_t mode) {
  NEEDS_SPACE();
  return NEXT(mkdir)(path, mode);
}
int rename(const char* from, const char* to) {
  NEEDS_SPACE();
  return NEXT(rename)(from, to);
}
int renameat2(int from_at, const char* from, int to_at, const char* to, unsigned flags) {
  NEEDS_SPACE();
  return NEXT(renameat2)(from_at, from, to_at, to, flags);
}
int fsync(int fd) {
  NEEDS_SPACE();
  return NEXT(fsync)(fd);
}
int unlink(const char* path) {
  TAKES_AWAY();
  return NEXT(unlink)(path);
}
int unlinkat(int at, const char* path, int flags) {
  TAKES_AWAY();
  return NEXT(unlinkat)(at, path, flags);
}
int rmdir(const char* path) {
  TAKES_AWAY();
  return NEXT(rmdir)(path);
}
int remove(const char* path) {
  TAKES_AWAY();
  return NEXT(remove)(path);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) {
  if (threads_until > 0 && atomic_fetch_add(&threads, 1) + 1 >= threads_until) return EAGAIN;
  return NEXT(pthread_create)(thread, attributes, start, argument);
}
