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
};

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

static int sync_or_fail(int fd, const char *name)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!is_ours(fd))
        return real(fd);
    __sync_fetch_and_add(&control->held_syncs, 1);
    while (control->hold_syncs)
        usleep(1000);
    __sync_fetch_and_sub(&control->held_syncs, 1);
    int left = control->fail_syncs;
    while (left > 0 && !__sync_bool_compare_and_swap(&control->fail_syncs, left, left - 1))
        left = control->fail_syncs;
    if (left > 0) {
        __sync_fetch_and_add(&control->failed_calls, 1);
        errno = EIO;
        return -1;
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

static int refused(int fd)
{
    if (!control || !control->read_only || !is_ours(fd))
        return 0;
    __sync_fetch_and_add(&control->failed_calls, 1);
    errno = EROFS;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return refused(fd) ? -1 : real(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t (*real)(int, const struct iovec *, int) =
        (ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    return refused(fd) ? -1 : real(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return refused(fd) ? -1 : real(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return refused(fd) ? -1 : real(fd, bytes, length, at);
}
