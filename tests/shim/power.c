/* Notes what a power loss would take, below the real binary (LD_PRELOAD).
 *
 * Everything below POWER_SHIM_DIR is done as asked, and POWER_SHIM_JOURNAL is told: before a write
 * or a cut, the bytes that it replaces; after a name changed, the change; after an fsync or
 * fdatasync returned, how much of the journal it covers. sync_file_range is not noted: it makes
 * nothing durable. A file that loses its name is kept as POWER_SHIM_KEPT/INODE. What is left after
 * a power loss is then for src/real/power.rs to draw. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITTEN = 1, NAMED = 2, RENAMED = 3, SYNCED = 4 };
enum { DESCRIPTORS = 1 << 20 };

/* Native byte order; src/real/power/journal.rs reads it. */
struct record {
    uint32_t kind;
    uint32_t name_bytes;  /* RENAMED: the old name, a zero and the new one */
    uint64_t inode;       /* NAMED, RENAMED: of the directory */
    uint64_t child;       /* NAMED, RENAMED: 0 for a name that is gone; WRITTEN: the old size */
    uint64_t at;          /* WRITTEN: where; NAMED: 1 for a directory; SYNCED: bytes of journal */
    uint64_t length;      /* WRITTEN: how many bytes are replaced or added */
    uint64_t old_bytes;   /* WRITTEN: so many follow the name; none if they were all zero */
};

static const char *dir, *kept;
static size_t dir_length;
static int journal = -1;
/* Below the directory. A socket that is given the number later is no file. */
static unsigned char is_below[DESCRIPTORS];
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A journal with a hole proves nothing. */
static void give_up(const char *what)
{
    perror(what);
    abort();
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("POWER_SHIM_JOURNAL");
    dir = getenv("POWER_SHIM_DIR");
    kept = getenv("POWER_SHIM_KEPT");
    if (!path || !dir || !kept)
        return;
    dir_length = strlen(dir);
    journal = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (journal < 0)
        give_up(path);
}

static void note(struct record *record, const char *name, const void *old)
{
    struct iovec parts[] = {
        { record, sizeof *record },
        { (void *)name, record->name_bytes },
        { (void *)old, record->old_bytes },
    };
    ssize_t whole = sizeof *record + record->name_bytes + record->old_bytes;
    if (REAL(writev)(journal, parts, 3) != whole)
        give_up("the journal of the power shim");
}

/* The whole path, if it is below the directory. */
static int locate(int at, const char *path, char whole[PATH_MAX])
{
    if (journal < 0)
        return 0;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        if (at == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0)
            return 0;
        base[length] = 0;
        if (snprintf(whole, PATH_MAX, "%s/%s", base, path) >= PATH_MAX)
            give_up(path);
    }
    return strncmp(whole, dir, dir_length) == 0
        && (whole[dir_length] == '/' || whole[dir_length] == 0);
}

static uint64_t inode_of(const char *path, uint64_t *is_dir)
{
    struct stat found;
    if (lstat(path, &found) != 0)
        return 0;
    if (is_dir)
        *is_dir = S_ISDIR(found.st_mode);
    return found.st_ino;
}

/* The inode of the directory that a path lies in, and the path's last part. */
static uint64_t parent_of(const char *whole, const char **name)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(whole, '/');
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - whole), whole);
    *name = slash + 1;
    return inode_of(parent, NULL);
}

static void note_name(const char *whole, int is_there)
{
    const char *name;
    struct record record = { .kind = NAMED, .inode = parent_of(whole, &name) };
    record.name_bytes = strlen(name);
    if (is_there)
        record.child = inode_of(whole, &record.at);
    note(&record, name, NULL);
}

/* A file that is about to lose this name stays, for the name may come back. */
static void keep(const char *whole)
{
    char copy[PATH_MAX];
    uint64_t is_dir = 0, inode = inode_of(whole, &is_dir);
    if (!inode || is_dir)
        return;
    snprintf(copy, sizeof copy, "%s/%llu", kept, (unsigned long long)inode);
    if (link(whole, copy) != 0 && errno != EEXIST)
        give_up(copy);
}

static int is_ours(int fd, struct stat *found)
{
    return journal >= 0 && fd >= 0 && fd < DESCRIPTORS && is_below[fd] && fstat(fd, found) == 0
        && (S_ISREG(found->st_mode) || S_ISDIR(found->st_mode));
}

static int is_zero(const char *bytes, size_t length)
{
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

/* Before the bytes of a file are replaced, or it is cut or made longer. */
static void note_written(int fd, const struct stat *found, off64_t at, size_t length)
{
    struct record record = { .kind = WRITTEN, .inode = found->st_ino, .child = found->st_size,
                             .at = at, .length = length };
    char *old = NULL;
    if (at < found->st_size && length > 0) {
        size_t wanted = found->st_size - at;
        if (wanted > length)
            wanted = length;
        old = malloc(wanted);
        /* The descriptor may be for writing only. */
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int reading = REAL(open)(link, O_RDONLY | O_CLOEXEC);
        if (!old || reading < 0 || pread(reading, old, wanted, at) != (ssize_t)wanted)
            give_up("reading what is overwritten");
        close(reading);
        record.old_bytes = is_zero(old, wanted) ? 0 : wanted;
    }
    note(&record, "", old);
    free(old);
}

static int open_below(int at, const char *path, int flags, mode_t mode)
{
    char whole[PATH_MAX];
    int ours = locate(at, path, whole);
    if (!ours || !(flags & (O_CREAT | O_TRUNC))) {
        int fd = REAL(openat)(at, path, flags, mode);
        if (fd >= 0 && fd < DESCRIPTORS)
            is_below[fd] = ours;
        return fd;
    }
    pthread_mutex_lock(&order);
    int was_there = inode_of(whole, NULL) != 0;
    int fd = REAL(openat)(at, path, flags & ~O_TRUNC, mode);
    int error = errno;
    struct stat found;
    if (fd >= 0 && fd < DESCRIPTORS) {
        is_below[fd] = 1;
        if (!was_there)
            note_name(whole, 1);
        if ((flags & O_TRUNC) && fstat(fd, &found) == 0 && found.st_size > 0) {
            note_written(fd, &found, 0, found.st_size);
            if (REAL(ftruncate)(fd, 0) != 0)
                give_up(whole);
        }
    }
    pthread_mutex_unlock(&order);
    errno = error;
    return fd;
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags, mode);
    return open_below(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags, mode);
    return open_below(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE(flags, mode);
    return open_below(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE(flags, mode);
    return open_below(at, path, flags, mode);
}

/* Runs a call that writes `length` bytes at `at`, or at the descriptor's place if that is -1. */
#define WRITES(fd, at, length, call) \
    struct stat found; \
    if (!is_ours(fd, &found)) \
        return call; \
    pthread_mutex_lock(&order); \
    fstat(fd, &found); \
    off64_t from = (at) >= 0 ? (at) : lseek64(fd, 0, SEEK_CUR); \
    if (fcntl(fd, F_GETFL) & O_APPEND) \
        from = found.st_size; \
    note_written(fd, &found, from, length); \
    __typeof__(call) result = call; \
    int error = errno; \
    pthread_mutex_unlock(&order); \
    errno = error; \
    return result

ssize_t write(int fd, const void *bytes, size_t length)
{
    WRITES(fd, (off64_t)-1, length, REAL(write)(fd, bytes, length));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    size_t length = 0;
    for (int part = 0; part < count; part++)
        length += parts[part].iov_len;
    WRITES(fd, (off64_t)-1, length, REAL(writev)(fd, parts, count));
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    WRITES(fd, (off64_t)at, length, REAL(pwrite)(fd, bytes, length, at));
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    WRITES(fd, at, length, REAL(pwrite64)(fd, bytes, length, at));
}

static int cut(int fd, off64_t size)
{
    struct stat found;
    if (!is_ours(fd, &found))
        return REAL(ftruncate64)(fd, size);
    pthread_mutex_lock(&order);
    fstat(fd, &found);
    off64_t low = size < found.st_size ? size : found.st_size;
    off64_t high = size < found.st_size ? found.st_size : size;
    note_written(fd, &found, low, high - low);
    int result = REAL(ftruncate64)(fd, size);
    int error = errno;
    pthread_mutex_unlock(&order);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t size)
{
    return cut(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return cut(fd, size);
}

/* Whoever copies goes back to reading and writing. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length,
                        unsigned flags)
{
    struct stat found;
    if (!is_ours(to, &found))
        return REAL(copy_file_range)(from, from_at, to, to_at, length, flags);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int to, int from, off64_t *from_at, size_t length)
{
    struct stat found;
    if (!is_ours(to, &found))
        return REAL(sendfile64)(to, from, from_at, length);
    errno = ENOSYS;
    return -1;
}

int mkdir(const char *path, mode_t mode)
{
    char whole[PATH_MAX];
    if (!locate(AT_FDCWD, path, whole))
        return REAL(mkdir)(path, mode);
    pthread_mutex_lock(&order);
    int result = REAL(mkdir)(path, mode);
    int error = errno;
    if (result == 0)
        note_name(whole, 1);
    pthread_mutex_unlock(&order);
    errno = error;
    return result;
}

static int remove_at(int at, const char *path, int flags)
{
    char whole[PATH_MAX];
    if (!locate(at, path, whole))
        return REAL(unlinkat)(at, path, flags);
    pthread_mutex_lock(&order);
    keep(whole);
    int result = REAL(unlinkat)(at, path, flags);
    int error = errno;
    if (result == 0)
        note_name(whole, 0);
    pthread_mutex_unlock(&order);
    errno = error;
    return result;
}

int unlink(const char *path)
{
    return remove_at(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return remove_at(AT_FDCWD, path, AT_REMOVEDIR);
}

int unlinkat(int at, const char *path, int flags)
{
    return remove_at(at, path, flags);
}

int rename(const char *old, const char *new)
{
    char from[PATH_MAX], to[PATH_MAX], names[2 * NAME_MAX + 2];
    if (!locate(AT_FDCWD, old, from) || !locate(AT_FDCWD, new, to))
        return REAL(rename)(old, new);
    const char *from_name, *to_name;
    pthread_mutex_lock(&order);
    struct record record = { .kind = RENAMED, .inode = parent_of(from, &from_name) };
    if (record.inode != parent_of(to, &to_name))
        give_up("a rename into another directory");
    size_t length = strlen(from_name);
    record.name_bytes = length + 1 + strlen(to_name);
    memcpy(names, from_name, length + 1);
    strcpy(names + length + 1, to_name);
    record.child = inode_of(from, &record.at);
    keep(to);
    int result = REAL(rename)(old, new);
    int error = errno;
    if (result == 0)
        note(&record, names, NULL);
    pthread_mutex_unlock(&order);
    errno = error;
    return result;
}

static int synced(int fd, int (*real)(int))
{
    struct stat found, noted;
    if (!is_ours(fd, &found))
        return real(fd);
    pthread_mutex_lock(&order);
    if (fstat(journal, &noted) != 0)
        give_up("the journal of the power shim");
    pthread_mutex_unlock(&order);
    int result = real(fd);
    int error = errno;
    if (result == 0) {
        struct record record = { .kind = SYNCED, .inode = found.st_ino, .at = noted.st_size };
        pthread_mutex_lock(&order);
        note(&record, "", NULL);
        pthread_mutex_unlock(&order);
    }
    errno = error;
    return result;
}

int fsync(int fd)
{
    return synced(fd, REAL(fsync));
}

int fdatasync(int fd)
{
    return synced(fd, REAL(fdatasync));
}
