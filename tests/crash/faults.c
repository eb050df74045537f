/* Between the process and its disk: counts, fails, delays and records what is done below one directory, and
 * sets the wall clock off. Loaded with LD_PRELOAD; told what to do through a page of memory that the harness
 * shares (faults.rs). Never changes what is not asked for, never touches files elsewhere.
 *
 *   POSTHASTE_FAULTS_BELOW    the directory, canonical
 *   POSTHASTE_FAULTS_CONTROL  the shared page
 *   POSTHASTE_FAULTS_RECORD   a file to which every change is appended; optional
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The shared page; the same order as in faults.rs. */
struct control {
    _Atomic uint64_t writes, syncs, fired;
    _Atomic uint64_t fault, target, at, lasting;
    _Atomic uint64_t sync_delay_ms;
    _Atomic int64_t clock_offset_ms;
    _Atomic uint64_t space_limited;
    _Atomic int64_t space_left;
    _Atomic uint64_t lie_sync, lie_dir_sync;
};

enum { NONE, EIO_ALWAYS, SHORT, INTERRUPTED };
enum { TARGET_WRITE = 1, TARGET_SYNC = 2 };
enum { OPENED = 1, WRITTEN, TRUNCATED, SYNC_BEGUN, SYNCED, RENAMED, UNLINKED, DIR_MADE };

#define FDS 65536
static _Atomic uint32_t tokens[FDS]; /* by descriptor: which opening of a file below; 0: none */
static _Atomic uint32_t token_last, sync_last;
static struct control *control;
static char below[PATH_MAX];
static size_t below_len;
static int record_fd = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("POSTHASTE_FAULTS_BELOW"), *page = getenv("POSTHASTE_FAULTS_CONTROL");
    if (!dir || !page) return;
    int fd = syscall(SYS_openat, AT_FDCWD, page, O_RDWR | O_CLOEXEC);
    if (fd < 0) abort();
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    strncpy(below, dir, sizeof below - 1);
    below_len = strlen(below);
    const char *record = getenv("POSTHASTE_FAULTS_RECORD");
    if (record) {
        fd = syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0) abort();
        /* Out of the way of a process that is short of descriptors. */
        record_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 100);
        if (record_fd < 0) record_fd = fd; else syscall(SYS_close, fd);
    }
    control = memory;
}

static int is_below(const char *path) {
    return control && path && !strncmp(path, below, below_len) && (path[below_len] == '/' || !path[below_len]);
}

static uint32_t token_of(int fd) {
    return control && fd >= 0 && fd < FDS ? atomic_load(&tokens[fd]) : 0;
}

/* One change: 24 bytes, the path (from the directory on; two of them with a zero byte between for a rename), data.
 *   0 length of all   4 what   5 flag   6 length of the path   8 token   12 number of the sync   16 offset or size */
static void note(int what, int flag, uint32_t token, uint32_t sync, uint64_t at, const char *path, size_t path_len,
                 const void *data, size_t data_len) {
    if (record_fd < 0) return;
    unsigned char head[24];
    uint32_t whole = sizeof head + path_len + data_len;
    uint16_t short_len = path_len;
    memcpy(head, &whole, 4);
    head[4] = what;
    head[5] = flag;
    memcpy(head + 6, &short_len, 2);
    memcpy(head + 8, &token, 4);
    memcpy(head + 12, &sync, 4);
    memcpy(head + 16, &at, 8);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, path_len}, {(void *)data, data_len}};
    if (syscall(SYS_writev, record_fd, parts, 3) != (long)whole) abort();
}

static const char *rest(const char *path) { return path + below_len; }

/* What is to happen to this operation. */
static int fate(int target, uint64_t number) {
    if (atomic_load(&control->target) != (uint64_t)target) return NONE;
    uint64_t at = atomic_load(&control->at);
    if (at == 0 || number < at || (number > at && !atomic_load(&control->lasting))) return NONE;
    atomic_fetch_add(&control->fired, 1);
    return atomic_load(&control->fault);
}

static int opened(int fd, const char *path, int flags, int was_there) {
    if (fd < 0 || fd >= FDS) return fd;
    if (!is_below(path)) {
        atomic_store(&tokens[fd], 0);
        return fd;
    }
    uint32_t token = atomic_fetch_add(&token_last, 1) + 1;
    atomic_store(&tokens[fd], token);
    int flag = (!was_there ? 1 : 0) | (flags & O_TRUNC ? 2 : 0);
    note(OPENED, flag, token, 0, 0, rest(path), strlen(rest(path)), NULL, 0);
    return fd;
}

static int open_any(int at, const char *path, int flags, mode_t mode) {
    if (!is_below(path)) return opened(syscall(SYS_openat, at, path, flags, mode), path, flags, 1);
    pthread_mutex_lock(&order);
    struct stat stat;
    int was_there = syscall(SYS_newfstatat, AT_FDCWD, path, &stat, 0) == 0;
    if (!was_there && (flags & O_CREAT) && atomic_load(&control->space_limited) &&
        atomic_load(&control->space_left) <= 0) {
        pthread_mutex_unlock(&order);
        errno = ENOSPC;
        return -1;
    }
    int fd = opened(syscall(SYS_openat, at, path, flags, mode), path, flags, was_there);
    int kept = errno;
    pthread_mutex_unlock(&order);
    errno = kept;
    return fd;
}

#define OPEN_MODE(last) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, last); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { OPEN_MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { OPEN_MODE(flags) return open_any(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { OPEN_MODE(flags) return open_any(at, path, flags, mode); }

int close(int fd) {
    if (control && fd >= 0 && fd < FDS) atomic_store(&tokens[fd], 0);
    return syscall(SYS_close, fd);
}

/* offset < 0: at the file's own place. */
static ssize_t write_any(int fd, const void *data, size_t len, off_t offset) {
    uint32_t token = token_of(fd);
    if (!token)
        return offset < 0 ? syscall(SYS_write, fd, data, len) : syscall(SYS_pwrite64, fd, data, len, offset);
    switch (fate(TARGET_WRITE, atomic_fetch_add(&control->writes, 1) + 1)) {
    case EIO_ALWAYS: errno = EIO; return -1;
    case INTERRUPTED: errno = EINTR; return -1;
    case SHORT: len = len > 1 ? len / 2 : len; break;
    }
    pthread_mutex_lock(&order);
    if (atomic_load(&control->space_limited)) {
        int64_t left = atomic_load(&control->space_left);
        if (left <= 0) {
            pthread_mutex_unlock(&order);
            errno = ENOSPC;
            return -1;
        }
        if ((int64_t)len > left) len = left;
        atomic_fetch_sub(&control->space_left, (int64_t)len);
    }
    off_t at = offset < 0 ? syscall(SYS_lseek, fd, 0, SEEK_CUR) : offset;
    ssize_t done = offset < 0 ? syscall(SYS_write, fd, data, len) : syscall(SYS_pwrite64, fd, data, len, offset);
    int kept = errno;
    if (done > 0) note(WRITTEN, 0, token, 0, at, NULL, 0, data, done);
    pthread_mutex_unlock(&order);
    errno = kept;
    return done;
}

ssize_t write(int fd, const void *data, size_t len) { return write_any(fd, data, len, -1); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return write_any(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return write_any(fd, data, len, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!token_of(fd)) return syscall(SYS_writev, fd, parts, count);
    return count > 0 ? write_any(fd, parts[0].iov_base, parts[0].iov_len, -1) : 0;
}

int ftruncate(int fd, off_t len) {
    uint32_t token = token_of(fd);
    if (!token) return syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&order);
    int done = syscall(SYS_ftruncate, fd, len);
    if (done == 0) note(TRUNCATED, 0, token, 0, len, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    return done;
}
int ftruncate64(int fd, off_t len) { return ftruncate(fd, len); }

static int is_directory(int fd) {
    struct stat stat;
    return syscall(SYS_fstat, fd, &stat) == 0 && S_ISDIR(stat.st_mode);
}

static int sync_any(int fd, long call) {
    uint32_t token = token_of(fd);
    if (!token) return syscall(call, fd);
    switch (fate(TARGET_SYNC, atomic_fetch_add(&control->syncs, 1) + 1)) {
    case EIO_ALWAYS: errno = EIO; return -1;
    case INTERRUPTED: errno = EINTR; return -1;
    }
    uint64_t delay = atomic_load(&control->sync_delay_ms);
    if (delay) {
        struct timespec wait = {delay / 1000, (delay % 1000) * 1000000};
        nanosleep(&wait, NULL);
    }
    int lies = is_directory(fd) ? atomic_load(&control->lie_dir_sync) : atomic_load(&control->lie_sync);
    if (lies) return 0;
    uint32_t sync = atomic_fetch_add(&sync_last, 1) + 1;
    pthread_mutex_lock(&order);
    note(SYNC_BEGUN, 0, token, sync, 0, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    int done = syscall(call, fd);
    if (done == 0) {
        pthread_mutex_lock(&order);
        note(SYNCED, 0, token, sync, 0, NULL, 0, NULL, 0);
        pthread_mutex_unlock(&order);
    }
    return done;
}

int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

/* Makes nothing durable, whatever the name promises. */
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    if (token_of(fd) && fate(TARGET_SYNC, atomic_fetch_add(&control->syncs, 1) + 1) == EIO_ALWAYS) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_sync_file_range, fd, at, len, flags);
}

int rename(const char *from, const char *to) {
    if (!is_below(from) || !is_below(to)) return syscall(SYS_rename, from, to);
    pthread_mutex_lock(&order);
    int done = syscall(SYS_rename, from, to);
    if (done == 0) {
        char both[2 * PATH_MAX];
        size_t first = strlen(rest(from)) + 1, second = strlen(rest(to));
        memcpy(both, rest(from), first);
        memcpy(both + first, rest(to), second);
        note(RENAMED, 0, 0, 0, 0, both, first + second, NULL, 0);
    }
    pthread_mutex_unlock(&order);
    return done;
}

int unlink(const char *path) {
    if (!is_below(path)) return syscall(SYS_unlink, path);
    pthread_mutex_lock(&order);
    int done = syscall(SYS_unlink, path);
    if (done == 0) note(UNLINKED, 0, 0, 0, 0, rest(path), strlen(rest(path)), NULL, 0);
    pthread_mutex_unlock(&order);
    return done;
}

int mkdir(const char *path, mode_t mode) {
    if (!is_below(path)) return syscall(SYS_mkdir, path, mode);
    pthread_mutex_lock(&order);
    int done = syscall(SYS_mkdir, path, mode);
    int kept = errno;
    if (done == 0) note(DIR_MADE, 0, 0, 0, 0, rest(path), strlen(rest(path)), NULL, 0);
    pthread_mutex_unlock(&order);
    errno = kept;
    return done;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static __typeof__(&clock_gettime) real;
    if (!real) real = REAL(clock_gettime);
    int done = real(clock, time);
    int64_t offset = control && clock == CLOCK_REALTIME ? atomic_load(&control->clock_offset_ms) : 0;
    if (done == 0 && offset) {
        int64_t whole = time->tv_sec * 1000000000LL + time->tv_nsec + offset * 1000000LL;
        time->tv_sec = whole / 1000000000LL;
        time->tv_nsec = whole % 1000000000LL;
    }
    return done;
}
