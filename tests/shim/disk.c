/* A disk that misbehaves on demand, below the real binary (LD_PRELOAD).
 *
 * Only files below DISK_SHIM_DIR are touched. What is to happen stands in the file
 * DISK_SHIM_CONTROL, which is mapped: whoever writes into it is obeyed at the next call. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Native byte order; the order of the fields is known to the test. */
struct control {
    volatile int hold_syncs;    /* set by the test: syncs do not return while it is not 0 */
    volatile int fail_syncs;    /* set by the test: so many syncs fail with EIO, and do nothing */
    volatile int read_only;     /* set by the test: writes fail with EROFS while it is not 0 */
    volatile int held_syncs;    /* told to the test: syncs that wait now */
    volatile int failed_calls;  /* told to the test: calls that failed because of it */
    volatile int retried_syncs; /* told to the test: syncs of a descriptor whose sync has failed */
    volatile int fail_read;     /* set by the test: this read, from 1, and all after it fail with EIO */
    volatile int reads;         /* told to the test: reads so far, while it is not 0 */
    volatile int stutter;       /* set by the test: of three calls one is interrupted and one short */
    volatile int say_later;     /* set by the test: so many writes fail with EAGAIN */
    volatile int stuttered;     /* told to the test: calls that were interrupted or short */
};

#define DESCRIPTORS_MAX 4096
static volatile char sync_failed[DESCRIPTORS_MAX];

static struct control *control;
static const char *dir;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("DISK_SHIM_CONTROL");
    dir = getenv("DISK_SHIM_DIR");
    if (!path || !dir)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED)
        abort();
    close(fd);
}

static int is_ours(int fd)
{
    char link[64], path[PATH_MAX];
    if (!control)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

/* Which of three calls in turn this one is: interrupted, short, whole. */
enum turn { WHOLE, INTERRUPTED, SHORT };

static enum turn turn_of_call(void)
{
    static volatile int calls;
    if (!control->stutter)
        return WHOLE;
    enum turn turn = __sync_add_and_fetch(&calls, 1) % 3;
    if (turn != WHOLE)
        __sync_fetch_and_add(&control->stuttered, 1);
    return turn;
}

static int fails_with(int error)
{
    __sync_fetch_and_add(&control->failed_calls, 1);
    errno = error;
    return 1;
}

/* Takes one from a counter that the test has set. */
static int one_of(volatile int *counter)
{
    int left = *counter;
    while (left > 0 && !__sync_bool_compare_and_swap(counter, left, left - 1))
        left = *counter;
    return left > 0;
}

/* How much of so many bytes the call may move, or -1 with errno set. */
static ssize_t moves(ssize_t length)
{
    switch (turn_of_call()) {
    case INTERRUPTED:
        errno = EINTR;
        return -1;
    case SHORT:
        return length > 1 ? length / 2 : length;
    default:
        return length;
    }
}

static int sync_or_fail(int fd, const char *name)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!is_ours(fd))
        return real(fd);
    if (turn_of_call() == INTERRUPTED) {
        errno = EINTR;
        return -1;
    }
    if (fd < DESCRIPTORS_MAX && sync_failed[fd])
        __sync_fetch_and_add(&control->retried_syncs, 1);
    __sync_fetch_and_add(&control->held_syncs, 1);
    while (control->hold_syncs)
        usleep(1000);
    __sync_fetch_and_sub(&control->held_syncs, 1);
    if (one_of(&control->fail_syncs)) {
        if (fd < DESCRIPTORS_MAX)
            sync_failed[fd] = 1;
        return -fails_with(EIO);
    }
    return real(fd);
}

int fsync(int fd)
{
    return sync_or_fail(fd, "fsync");
}

int fdatasync(int fd)
{
    return sync_or_fail(fd, "fdatasync");
}

/* How much of a write goes on, or -1 with errno set. */
static ssize_t writes(int fd, ssize_t length)
{
    if (!control || !is_ours(fd))
        return length;
    if (control->read_only)
        return -fails_with(EROFS);
    if (one_of(&control->say_later))
        return -fails_with(EAGAIN);
    return moves(length);
}

/* The same of a read. */
static ssize_t reads(int fd, ssize_t length)
{
    if (!control || !is_ours(fd))
        return length;
    if (control->fail_read && __sync_add_and_fetch(&control->reads, 1) >= control->fail_read)
        return -fails_with(EIO);
    return moves(length);
}

#define REAL(result, name, ...) ((result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *bytes, size_t length)
{
    ssize_t part = writes(fd, length);
    return part < 0 ? -1 : REAL(ssize_t, "write", int, const void *, size_t)(fd, bytes, part);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t part = writes(fd, count);
    return part < 0 ? -1 : REAL(ssize_t, "writev", int, const struct iovec *, int)(fd, parts, part);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    ssize_t part = writes(fd, length);
    return part < 0
               ? -1
               : REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, bytes, part, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    ssize_t part = writes(fd, length);
    return part < 0
               ? -1
               : REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, bytes, part, at);
}

ssize_t read(int fd, void *bytes, size_t length)
{
    ssize_t part = reads(fd, length);
    return part < 0 ? -1 : REAL(ssize_t, "read", int, void *, size_t)(fd, bytes, part);
}

ssize_t pread(int fd, void *bytes, size_t length, off_t at)
{
    ssize_t part = reads(fd, length);
    return part < 0 ? -1 : REAL(ssize_t, "pread", int, void *, size_t, off_t)(fd, bytes, part, at);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t at)
{
    ssize_t part = reads(fd, length);
    return part < 0
               ? -1
               : REAL(ssize_t, "pread64", int, void *, size_t, off64_t)(fd, bytes, part, at);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length,
                        unsigned int flags)
{
    ssize_t part = reads(from, length);
    return part < 0 ? -1
                    : REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t,
                           unsigned int)(from, from_at, to, to_at, part, flags);
}
