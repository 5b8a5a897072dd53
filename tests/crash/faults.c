/* Counts what a process changes below a folder, and lets it die or fail at a chosen change.
 *
 * Loaded with LD_PRELOAD; does nothing until `faults_arm` is called. A change is a write, a flush, a
 * new name or the end of one. A write that is hit is torn: half of its bytes reach the file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static atomic_long changes;
static long fatal_change; /* the first is 1; 0: none */
static int fault;         /* 0: die, else the errno */
static int is_lasting;    /* whether all later changes fail as well */

void faults_arm(const char *folder, long at, int error, int lasts) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    changes = 0;
    fatal_change = at;
    fault = error;
    is_lasting = lasts;
}

long faults_count(void) { return changes; }

static int below(const char *path) {
    char real[PATH_MAX];
    if (!root_length || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(real, sizeof real)) return 0;
        size_t length = strlen(real);
        snprintf(real + length, sizeof real - length, "/%s", path);
        path = real;
    }
    return !strncmp(path, root, root_length);
}

static int below_of(int folder, const char *path) {
    char name[64], real[PATH_MAX];
    if (!root_length || !path) return 0;
    if (folder == AT_FDCWD || path[0] == '/') return below(path);
    snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(name, real, sizeof real - 1);
    if (length < 0) return 0;
    real[length] = 0;
    return !strncmp(real, root, root_length);
}

static int below_handle(int handle) {
    char name[64], real[PATH_MAX];
    if (!root_length) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(name, real, sizeof real - 1);
    if (length < 0) return 0;
    real[length] = 0;
    return !strncmp(real, root, root_length);
}

/* Return whether this change is the one that is hit; on a disk that cannot rename, only those are. */
static int is_hit_as(int is_rename) {
    long number = ++changes;
    if (fault == EXDEV && !is_rename) return 0;
    return fatal_change && (number == fatal_change || (is_lasting && number > fatal_change));
}

static int is_hit(void) { return is_hit_as(0); }

static void die_if_asked(void) {
    if (!fault) kill(getpid(), SIGKILL);
}

#define REAL(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

#define CHANGE_AS(is_rename, condition, call)      \
    do {                                           \
        if ((condition) && is_hit_as(is_rename)) { \
            die_if_asked();                        \
            errno = fault;                         \
            return -1;                             \
        }                                          \
        return call;                               \
    } while (0)
#define CHANGE(condition, call) CHANGE_AS(0, condition, call)

ssize_t write(int handle, const void *data, size_t size) {
    if (below_handle(handle) && is_hit()) {
        if (size > 1) REAL(write, handle, data, size / 2);
        die_if_asked();
        errno = fault;
        return -1;
    }
    return REAL(write, handle, data, size);
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
    if (below_handle(handle) && is_hit()) {
        if (size > 1) REAL(pwrite64, handle, data, size / 2, at);
        die_if_asked();
        errno = fault;
        return -1;
    }
    return REAL(pwrite64, handle, data, size, at);
}

ssize_t writev(int handle, const struct iovec *parts, int count) {
    CHANGE(below_handle(handle), REAL(writev, handle, parts, count));
}

ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    CHANGE(below_handle(to), REAL(sendfile, to, from, at, size));
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags) {
    CHANGE(below_handle(to), REAL(copy_file_range, from, at, to, to_at, size, flags));
}

int fsync(int handle) { CHANGE(below_handle(handle), REAL(fsync, handle)); }
int fdatasync(int handle) { CHANGE(below_handle(handle), REAL(fdatasync, handle)); }
int ftruncate64(int handle, off64_t size) {
    CHANGE(below_handle(handle) && fault != ENOSPC, REAL(ftruncate64, handle, size));
}
int rename(const char *from, const char *to) { CHANGE_AS(1, below(to), REAL(rename, from, to)); }
int renameat(int a, const char *from, int b, const char *to) {
    CHANGE_AS(1, below_of(b, to), REAL(renameat, a, from, b, to));
}
int link(const char *from, const char *to) { CHANGE(below(to), REAL(link, from, to)); }
int mkdir(const char *path, mode_t mode) { CHANGE(below(path), REAL(mkdir, path, mode)); }

/* A full disk lets files go: these fail only where the disk itself does. */
int unlink(const char *path) { CHANGE(below(path) && fault != ENOSPC, REAL(unlink, path)); }
int unlinkat(int folder, const char *path, int flags) {
    CHANGE(below_of(folder, path) && fault != ENOSPC, REAL(unlinkat, folder, path, flags));
}
int rmdir(const char *path) { CHANGE(below(path) && fault != ENOSPC, REAL(rmdir, path)); }

#define OPEN(name, condition, ...)                                    \
    mode_t mode = 0;                                                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                              \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        mode = va_arg(rest, mode_t);                                  \
        va_end(rest);                                                 \
    }                                                                 \
    int writes = (flags & O_ACCMODE) != O_RDONLY;                     \
    CHANGE(writes && (flags & O_CREAT || fault == EROFS) && (condition), REAL(name, __VA_ARGS__, mode))

int open(const char *path, int flags, ...) { OPEN(open, below(path), path, flags); }
int open64(const char *path, int flags, ...) { OPEN(open64, below(path), path, flags); }
int openat(int folder, const char *path, int flags, ...) {
    OPEN(openat, below_of(folder, path), folder, path, flags);
}
int openat64(int folder, const char *path, int flags, ...) {
    OPEN(openat64, below_of(folder, path), folder, path, flags);
}
