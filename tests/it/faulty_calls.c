/* Makes system calls fail that a process makes below one directory. Preloaded by faulty_disk.rs, which maps the same
   control file: which call, with which errno, how often (-1: until told otherwise), and how often it has happened. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the order of CALLS in faulty_disk.rs. */
enum call { RENAME, RENAME_DONE, MKDIR, OPEN, WRITE, FSYNC, LINK, UNLINK, STAT, READDIR, READ };

struct control { volatile int call, error, left, met; };

static struct control *control;
static const char *root;
static size_t root_length;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTY_CONTROL");
    root = getenv("FAULTY_ROOT");
    if (!path || !root) return;
    root_length = strlen(root);
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) abort();
    close(fd);
}

static int armed(enum call call) {
    return control && control->left != 0 && control->call == (int)call;
}

static int strike(void) {
    int left = control->left;
    while (left > 0 && !__sync_bool_compare_and_swap(&control->left, left, left - 1)) left = control->left;
    if (left == 0) return 0;
    __sync_fetch_and_add(&control->met, 1);
    errno = control->error;
    return 1;
}

static int fails(enum call call, const char *path) {
    return armed(call) && path && strncmp(path, root, root_length) == 0 && strike();
}

static int fails_at(enum call call, int fd) {
    char link[32], path[4096];
    if (!armed(call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int rename(const char *from, const char *to) {
    REAL(rename);
    if (fails(RENAME, to)) return -1;
    int done = real(from, to);
    return done == 0 && fails(RENAME_DONE, to) ? -1 : done;
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails(MKDIR, path) ? -1 : real(path, mode);
}

#define OPENS(name)                                                  \
    int name(const char *path, int flags, ...) {                     \
        REAL(name);                                                  \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                \
        return fails(OPEN, path) ? -1 : real(path, flags, mode);     \
    }
OPENS(open)
OPENS(open64)

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    return fails_at(WRITE, fd) ? -1 : real(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return fails_at(WRITE, fd) ? -1 : real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    REAL(pwrite64);
    return fails_at(WRITE, fd) ? -1 : real(fd, bytes, length, offset);
}

int fsync(int fd) {
    REAL(fsync);
    return fails_at(FSYNC, fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return fails_at(FSYNC, fd) ? -1 : real(fd);
}

int link(const char *from, const char *to) {
    REAL(link);
    return fails(LINK, to) ? -1 : real(from, to);
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    REAL(linkat);
    return fails(LINK, to) ? -1 : real(from_at, from, to_at, to, flags);
}

int unlink(const char *path) {
    REAL(unlink);
    return fails(UNLINK, path) ? -1 : real(path);
}

int statx(int at, const char *path, int flags, unsigned mask, struct statx *out) {
    REAL(statx);
    int by_fd = !*path;
    return (by_fd ? fails_at(STAT, at) : fails(STAT, path)) ? -1 : real(at, path, flags, mask, out);
}

DIR *opendir(const char *path) {
    REAL(opendir);
    return fails(READDIR, path) ? NULL : real(path);
}

struct dirent64 *readdir64(DIR *directory) {
    REAL(readdir64);
    return fails_at(READDIR, dirfd(directory)) ? NULL : real(directory);
}

ssize_t read(int fd, void *bytes, size_t length) {
    REAL(read);
    return fails_at(READ, fd) ? -1 : real(fd, bytes, length);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) {
    REAL(pread64);
    return fails_at(READ, fd) ? -1 : real(fd, bytes, length, offset);
}
