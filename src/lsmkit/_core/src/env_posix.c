/* env_posix.c: the environment of the real machine, Linux first, macOS beside it.
 *
 * Owns      descriptors, one a file; the list of lock files that this process holds.
 * Threads   system calls need no lock; `locks` has its mutex, which a fork takes over unheld.
 * Always    every descriptor is closed on exec; no descriptor of a lock file that this process
 *           holds is ever closed but by unlock, because closing any would drop the lock (POSIX).
 * Errors    EINTR is retried everywhere but in close, also of a sync: a call that was broken off
 *           has not yet told of the pages it could not write.
 */
#include "env.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <sys/vfs.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "check.h"

#if defined(__linux__) && !defined(MADV_POPULATE_READ)
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* Linux takes no more than 2 GiB less a page in one call. */
enum { CALL_BYTES_MAX = 1 << 30, ZERO_BYTES = 1 << 16, HUGE_BYTES = 2 << 20 };

typedef struct posix_file {
    lk_file base;
    int fd;
} posix_file;

static int fd_of(const lk_file *file) { return ((const posix_file *)file)->fd; }

/* Runs a call that gives -1 and errno until no signal breaks it off. */
#define RETRY(result, call)                                                                        \
    do {                                                                                           \
        (result) = (call);                                                                         \
    } while ((result) == -1 && errno == EINTR)

/* ---- files ---- */

static lk_status posix_open(lk_env *env, const char *path, int flags, lk_file **out, lk_error *err)
{
    (void)env;
    /* O_NONBLOCK, so that opening a pipe by mistake is an error and not a wait for ever. */
    int how = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    how |= (flags & LK_OPEN_WRITE) != 0 ? O_RDWR : O_RDONLY;
    if ((flags & LK_OPEN_CREATE) != 0) how |= O_CREAT;
    if ((flags & LK_OPEN_EXCLUSIVE) != 0) how |= O_EXCL;
    if ((flags & LK_OPEN_TRUNCATE) != 0) how |= O_TRUNC;
    lk_status st = LK_OK;
    struct stat info;
    int fd = -1;
    posix_file *file = malloc(sizeof *file);
    if (file == NULL) return lk_fail_nomem(err, sizeof *file);
    RETRY(fd, open(path, how, 0666));
    if (fd < 0) LK_TRY(lk_env_fail(err, errno, "open", path, 0));
    if (fstat(fd, &info) != 0) LK_TRY(lk_env_fail(err, errno, "look at", path, 0));
    if (!S_ISREG(info.st_mode)) {
        int why = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
        LK_TRY(lk_fail(err, LK_IO, why, path, 0, 0, 0, "%s is no regular file", path));
    }
    file->fd = fd;
    *out = &file->base;
    file = NULL;
    fd = -1;
done:
    if (fd >= 0) (void)close(fd);
    free(file);
    return st;
}

static void posix_close(lk_file *file)
{
    /* What had to be on the disk was synced; an error here says nothing about that. */
    (void)close(fd_of(file));
    free(file);
}

static lk_status posix_read(lk_file *file, uint64_t offset, void *buf, size_t n, size_t *out_n,
                            lk_error *err)
{
    size_t done = 0;
    while (done < n) {
        size_t want = n - done < CALL_BYTES_MAX ? n - done : CALL_BYTES_MAX;
        ssize_t got;
        RETRY(got, pread(fd_of(file), (uint8_t *)buf + done, want, (off_t)(offset + done)));
        if (got < 0) return lk_env_fail(err, errno, "read", file->path, offset + done);
        if (got == 0) break;
        done += (size_t)got;
    }
    *out_n = done;
    return LK_OK;
}

static lk_status posix_write(lk_file *file, uint64_t offset, const void *buf, size_t n,
                             lk_error *err)
{
    size_t done = 0;
    while (done < n) {
        size_t want = n - done < CALL_BYTES_MAX ? n - done : CALL_BYTES_MAX;
        ssize_t got;
        RETRY(got, pwrite(fd_of(file), (const uint8_t *)buf + done, want, (off_t)(offset + done)));
        if (got < 0) return lk_env_fail(err, errno, "write", file->path, offset + done);
        /* No system does this for a regular file; were one to, this loop would not end. */
        if (got == 0) return lk_env_fail(err, EIO, "write", file->path, offset + done);
        done += (size_t)got;
    }
    return LK_OK;
}

static lk_status posix_size(lk_file *file, uint64_t *out_bytes, lk_error *err)
{
    struct stat info;
    if (fstat(fd_of(file), &info) != 0) return lk_env_fail(err, errno, "look at", file->path, 0);
    *out_bytes = (uint64_t)info.st_size;
    return LK_OK;
}

static lk_status posix_truncate(lk_file *file, uint64_t bytes, lk_error *err)
{
    int failed;
    RETRY(failed, ftruncate(fd_of(file), (off_t)bytes));
    return failed == 0 ? LK_OK : lk_env_fail(err, errno, "truncate", file->path, bytes);
}

/* Writes back what is there, so that holes get blocks, and zeros behind it. */
static lk_status allocate_by_writing(lk_file *file, uint64_t bytes, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t size = 0;
    uint8_t *buf = malloc(ZERO_BYTES);
    if (buf == NULL) return lk_fail_nomem(err, ZERO_BYTES);
    LK_TRY(posix_size(file, &size, err));
    for (uint64_t at = 0; at < bytes; at += ZERO_BYTES) {
        size_t n = bytes - at < ZERO_BYTES ? (size_t)(bytes - at) : ZERO_BYTES;
        size_t got = 0;
        if (at < size) LK_TRY(posix_read(file, at, buf, n, &got, err));
        memset(buf + got, 0, n - got);
        LK_TRY(posix_write(file, at, buf, n, err));
    }
done:
    free(buf);
    return st;
}

static lk_status posix_allocate(lk_file *file, uint64_t bytes, lk_error *err)
{
#if defined(__linux__)
    /* Not posix_fallocate: where the file system cannot, the library would touch every block
     * singly. */
    int failed;
    RETRY(failed, fallocate(fd_of(file), 0, 0, (off_t)bytes));
    if (failed == 0) return LK_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS) {
        return lk_env_fail(err, errno, "allocate", file->path, bytes);
    }
#endif
    return allocate_by_writing(file, bytes, err);
}

static int sync_descriptor(int fd)
{
    int failed;
#if defined(__APPLE__)
    /* fsync leaves the data in the drive's cache there. */
    RETRY(failed, fcntl(fd, F_FULLFSYNC));
    if (failed != -1 || (errno != ENOTSUP && errno != EINVAL && errno != ENOTTY)) return failed;
#endif
    RETRY(failed, fsync(fd));
    return failed;
}

static lk_status posix_sync(lk_file *file, lk_error *err)
{
    if (sync_descriptor(fd_of(file)) == 0) return LK_OK;
    return lk_env_fail(err, errno, "sync", file->path, 0);
}

static lk_status posix_datasync(lk_file *file, lk_error *err)
{
    int failed;
#if defined(__linux__)
    RETRY(failed, fdatasync(fd_of(file)));
#else
    failed = sync_descriptor(fd_of(file));
#endif
    return failed == 0 ? LK_OK : lk_env_fail(err, errno, "sync the data of", file->path, 0);
}

static void posix_writeback(lk_file *file, uint64_t offset, uint64_t bytes)
{
#if defined(__linux__)
    /* An error is not lost: whatever could not be written is told by the next sync. */
    (void)sync_file_range(fd_of(file), (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
#else
    (void)file;
    (void)offset;
    (void)bytes;
#endif
}

static lk_status posix_links(lk_file *file, uint64_t *out_links, lk_error *err)
{
    struct stat info;
    if (fstat(fd_of(file), &info) != 0) return lk_env_fail(err, errno, "look at", file->path, 0);
    *out_links = (uint64_t)info.st_nlink;
    return LK_OK;
}

/* ---- memory ---- */

/* A forked child that stored into a shared mapping would write into its parent's log. */
static int keep_from_children(void *map, size_t bytes)
{
#if defined(__linux__)
    return madvise(map, bytes, MADV_DONTFORK);
#elif defined(__APPLE__)
    return minherit(map, bytes, VM_INHERIT_NONE);
#else
    (void)map;
    (void)bytes;
    return 0;
#endif
}

static lk_status map_memory(int fd, const char *path, size_t bytes, int protection, int flags,
                            uint8_t **out, lk_error *err)
{
    void *map = mmap(NULL, bytes, protection, flags, fd, 0);
    if (map == MAP_FAILED) return lk_env_fail(err, errno, "map", path, bytes);
    if (keep_from_children(map, bytes) != 0) {
        int why = errno;
        (void)munmap(map, bytes);
        return lk_env_fail(err, why, "keep from children the mapping of", path, 0);
    }
    *out = map;
    return LK_OK;
}

static lk_status posix_map(lk_file *file, size_t bytes, bool writable, uint8_t **out, lk_error *err)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    return map_memory(fd_of(file), file->path, bytes, protection, MAP_SHARED, out, err);
}

static lk_status posix_map_anonymous(lk_env *env, size_t bytes, uint8_t **out, lk_error *err)
{
    (void)env;
    lk_status st = map_memory(-1, "memory", bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, out, err);
#if defined(__linux__)
    /* Large tables are probed at random: with 4 KiB pages each probe misses the TLB as well. A hint;
     * where it is refused the pages are small. */
    if (st == LK_OK && bytes >= HUGE_BYTES) (void)madvise(*out, bytes, MADV_HUGEPAGE);
#endif
    return st;
}

static void posix_unmap(lk_env *env, uint8_t *map, size_t bytes)
{
    (void)env;
    int failed = munmap(map, bytes);
    LK_ASSERT(failed == 0);
    (void)failed;
}

static lk_status posix_protect(lk_env *env, uint8_t *map, size_t bytes, bool writable,
                               lk_error *err)
{
    (void)env;
    if (mprotect(map, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ) == 0) return LK_OK;
    return lk_env_fail(err, errno, writable ? "make writable" : "make read-only", "a mapping", 0);
}

static void posix_evict(lk_env *env, uint8_t *map, size_t bytes)
{
    (void)env;
    /* Of a shared mapping: what was stored stays in the page cache, also on macOS. */
    (void)madvise(map, bytes, MADV_DONTNEED);
}

static void posix_populate(lk_env *env, uint8_t *map, size_t bytes, bool write)
{
    (void)env;
#if defined(__linux__)
    /* Kernels before 5.14 say EINVAL, and the pages come one by one when they are touched. */
    (void)madvise(map, bytes, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
#else
    (void)map;
    (void)bytes;
    (void)write;
#endif
}

static lk_status posix_detach(lk_env *env, uint8_t *map, size_t bytes, lk_error *err)
{
#if defined(__linux__)
    uint8_t *copy = NULL;
    lk_status st = posix_map_anonymous(env, bytes, &copy, err);
    if (st != LK_OK) return st;
    memcpy(copy, map, bytes);
    /* The kernel swaps the two under its lock of the address space: a reader sees one or the
     * other, never nothing. */
    if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, map) == MAP_FAILED) {
        int why = errno;
        posix_unmap(env, copy, bytes);
        return lk_env_fail(err, why, "detach", "a mapping", 0);
    }
    return LK_OK;
#else
    (void)env;
    (void)map;
    return lk_fail(err, LK_UNSUPPORTED, 0, NULL, 0, 0, bytes,
                   "this system cannot replace a mapping in its place");
#endif
}

/* ---- names ---- */

static lk_status posix_rename(lk_env *env, const char *from, const char *to, lk_error *err)
{
    (void)env;
    return rename(from, to) == 0 ? LK_OK : lk_env_fail(err, errno, "rename", from, 0);
}

static lk_status posix_unlink(lk_env *env, const char *path, lk_error *err)
{
    (void)env;
    return unlink(path) == 0 ? LK_OK : lk_env_fail(err, errno, "unlink", path, 0);
}

static lk_status posix_link(lk_env *env, const char *from, const char *to, lk_error *err)
{
    (void)env;
    if (link(from, to) == 0) return LK_OK;
    /* Of the two names, EEXIST speaks of the new one. */
    return lk_env_fail(err, errno, "link", errno == EEXIST ? to : from, 0);
}

static lk_status posix_mkdir(lk_env *env, const char *path, bool *out_existed, lk_error *err)
{
    (void)env;
    if (mkdir(path, 0777) == 0) return LK_OK;
    int why = errno;
    struct stat info;
    *out_existed = why == EEXIST && stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    return *out_existed ? LK_OK : lk_env_fail(err, why, "make the directory", path, 0);
}

static lk_status posix_rmdir(lk_env *env, const char *path, lk_error *err)
{
    (void)env;
    if (rmdir(path) == 0) return LK_OK;
    /* POSIX lets a full directory be EEXIST, which would read as something else. */
    return lk_env_fail(err, errno == EEXIST ? ENOTEMPTY : errno, "remove the directory", path, 0);
}

static lk_status posix_sync_dir(lk_env *env, const char *path, lk_error *err)
{
    (void)env;
    int fd;
    RETRY(fd, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) return lk_env_fail(err, errno, "open the directory", path, 0);
    int why = sync_descriptor(fd) == 0 ? 0 : errno;
    (void)close(fd);
    /* EINVAL is how file systems say that they do not sync directories (some network and FUSE
     * ones); there is nothing else to ask them for. */
    if (why == 0 || why == EINVAL) return LK_OK;
    return lk_env_fail(err, why, "sync the directory", path, 0);
}

static lk_status posix_exists(lk_env *env, const char *path, bool *out_exists, bool *out_is_dir,
                              lk_error *err)
{
    (void)env;
    struct stat info;
    if (stat(path, &info) == 0) {
        *out_exists = true;
        *out_is_dir = S_ISDIR(info.st_mode);
        return LK_OK;
    }
    if (errno == ENOENT || errno == ENOTDIR) return LK_OK;
    return lk_env_fail(err, errno, "look at", path, 0);
}

static lk_status posix_list(lk_env *env, const char *dir, lk_names *out, lk_error *err)
{
    (void)env;
    lk_status st = LK_OK;
    DIR *stream = opendir(dir);
    if (stream == NULL) return lk_env_fail(err, errno, "list", dir, 0);
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (entry == NULL) break;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        LK_TRY(lk_names_add(out, name, err));
    }
    if (errno != 0) LK_TRY(lk_env_fail(err, errno, "list", dir, 0));
done:
    (void)closedir(stream);
    return st;
}

/* ---- one owner ---- */

typedef struct posix_lock {
    lk_lock_file base;
    struct posix_lock *next;
    dev_t device;
    ino_t inode;
    pid_t pid;
    uint64_t since; /* seconds since 1970 */
    int fd;
} posix_lock;

static struct {
    pthread_once_t once;
    pthread_mutex_t mutex;
    posix_lock *first; /* guarded by mutex */
} locks = {.once = PTHREAD_ONCE_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER};

static void locks_hold(void) { (void)pthread_mutex_lock(&locks.mutex); }
static void locks_let_go(void) { (void)pthread_mutex_unlock(&locks.mutex); }

/* A child forked while another thread holds the mutex would wait for it for ever. */
static void locks_mind_forks(void)
{
    if (pthread_atfork(locks_hold, locks_let_go, locks_let_go) != 0) abort();
}

/* This process's lock of the file; what a parent left in the list of its child is not. */
static const posix_lock *locks_find(const struct stat *info)
{
    for (const posix_lock *lock = locks.first; lock != NULL; lock = lock->next) {
        bool same = lock->device == info->st_dev && lock->inode == info->st_ino;
        if (same && lock->pid == getpid()) return lock;
    }
    return NULL;
}

static lk_status refuse_locked(lk_error *err, const char *path, uint64_t pid, uint64_t since)
{
    return lk_fail(err, LK_LOCKED, 0, path, since, 0, pid,
                   "%s is held by process %llu since second %llu", path, (unsigned long long)pid,
                   (unsigned long long)since);
}

/* Who holds the file that `fd` could not lock: the kernel knows best, but not across name spaces of
 * processes; the content tells since when, if it is of the same process. */
static lk_status refuse_foreign(lk_error *err, const char *path, int fd)
{
    unsigned long long pid = 0, since = 0;
    char text[64];
    ssize_t got;
    RETRY(got, pread(fd, text, sizeof text - 1, 0));
    text[got > 0 ? got : 0] = '\0';
    if (sscanf(text, "%llu %llu", &pid, &since) != 2) pid = since = 0;
    struct flock holder = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    bool known = fcntl(fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK && holder.l_pid > 0;
    if (known && (unsigned long long)holder.l_pid != pid) {
        pid = (unsigned long long)holder.l_pid;
        since = 0;
    }
    return refuse_locked(err, path, pid, since);
}

/* Opens the lock file and locks it; *out_fd is -1 when the file was replaced meanwhile. */
static lk_status lock_open(const char *path, int *out_fd, struct stat *out_info, lk_error *err)
{
    lk_status st = LK_OK;
    const posix_lock *own;
    struct stat named;
    int fd = -1, failed;
    *out_fd = -1;
    if (stat(path, &named) == 0 && (own = locks_find(&named)) != NULL) {
        return refuse_locked(err, path, (uint64_t)own->pid, own->since);
    }
    RETRY(fd, open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
    if (fd < 0) LK_TRY(lk_env_fail(err, errno, "open the lock file", path, 0));
    if (fstat(fd, out_info) != 0) LK_TRY(lk_env_fail(err, errno, "look at", path, 0));
    if ((own = locks_find(out_info)) != NULL) {
        /* Renamed into its place since the first look. Closing this descriptor would drop the
         * lock, so it stays open. */
        return refuse_locked(err, path, (uint64_t)own->pid, own->since);
    }
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    RETRY(failed, fcntl(fd, F_SETLK, &whole));
    if (failed == -1 && (errno == EACCES || errno == EAGAIN)) {
        LK_TRY(refuse_foreign(err, path, fd));
    } else if (failed == -1) {
        LK_TRY(lk_env_fail(err, errno, "lock", path, 0));
    }
    /* Locked, but is it still the file of that name? */
    if (stat(path, &named) == 0 && named.st_dev == out_info->st_dev &&
        named.st_ino == out_info->st_ino) {
        *out_fd = fd;
        fd = -1;
    }
done:
    if (fd >= 0) (void)close(fd);
    return st;
}

/* For people and error messages: the lock holds without it, on a full disk too. */
static void lock_sign(const posix_lock *lock)
{
    char text[64];
    int n = snprintf(text, sizeof text, "%lld %llu\n", (long long)lock->pid,
                     (unsigned long long)lock->since);
    if (ftruncate(lock->fd, 0) == 0) {
        ssize_t written = pwrite(lock->fd, text, (size_t)n, 0);
        (void)written;
    }
}

static lk_status posix_lock_take(lk_env *env, const char *path, lk_lock_file **out, lk_error *err)
{
    (void)env;
    lk_status st = LK_OK;
    struct stat info;
    int fd = -1;
    if (pthread_once(&locks.once, locks_mind_forks) != 0) abort();
    posix_lock *lock = calloc(1, sizeof *lock);
    if (lock == NULL) return lk_fail_nomem(err, sizeof *lock);
    locks_hold();
    for (int i = 0; i < 100 && fd < 0; i++) LK_TRY(lock_open(path, &fd, &info, err));
    if (fd < 0)
        LK_TRY(lk_env_fail(err, EAGAIN, "lock, as it is replaced again and again,", path, 0));
    lock->device = info.st_dev;
    lock->inode = info.st_ino;
    lock->pid = getpid();
    lock->since = (uint64_t)time(NULL);
    lock->fd = fd;
    lock_sign(lock);
    lock->next = locks.first;
    locks.first = lock;
    *out = &lock->base;
    lock = NULL;
done:
    locks_let_go();
    free(lock);
    return st;
}

static void posix_unlock(lk_lock_file *base)
{
    posix_lock *lock = (posix_lock *)base;
    locks_hold();
    for (posix_lock **at = &locks.first; *at != NULL; at = &(*at)->next) {
        if (*at == lock) {
            *at = lock->next;
            break;
        }
    }
    /* In a child the number may name another file by now. */
    if (lock->pid == getpid()) (void)close(lock->fd);
    locks_let_go();
    free(lock);
}

/* ---- time, chance, machine ---- */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) abort();
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t posix_now_ns(lk_env *env)
{
    (void)env;
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t posix_wall_us(lk_env *env)
{
    (void)env;
    return clock_ns(CLOCK_REALTIME) / 1000;
}

static void random_from_device(uint8_t *out, size_t n)
{
    int fd;
    RETRY(fd, open("/dev/urandom", O_RDONLY | O_CLOEXEC));
    if (fd < 0) abort(); /* a nonce that may repeat is worse than no store */
    for (size_t done = 0; done < n;) {
        ssize_t got;
        RETRY(got, read(fd, out + done, n - done));
        if (got <= 0) abort();
        done += (size_t)got;
    }
    (void)close(fd);
}

static void posix_random(lk_env *env, void *out, size_t n)
{
    (void)env;
#if defined(__APPLE__)
    arc4random_buf(out, n);
#else
    size_t done = 0;
#if defined(SYS_getrandom)
    /* By number: the wheel's oldest C library has no function for it. */
    while (done < n) {
        long got;
        RETRY(got, syscall(SYS_getrandom, (uint8_t *)out + done, n - done, 0));
        if (got <= 0) break;
        done += (size_t)got;
    }
#endif
    if (done < n) random_from_device((uint8_t *)out + done, n - done);
#endif
}

static struct {
    pthread_once_t once;
    uint8_t id[16]; /* fixed after `once` */
} boot = {.once = PTHREAD_ONCE_INIT};

/* Reads 32 hexadecimal digits, with dashes anywhere; anything else leaves zeros. */
static void parse_uuid(const char *text, uint8_t out[16])
{
    uint8_t id[16] = {0};
    unsigned digits = 0;
    for (; *text != '\0' && *text != '\n'; text++) {
        if (*text == '-') continue;
        static const char HEX[] = "0123456789abcdef";
        const char *at = strchr(HEX, *text | 0x20);
        if (at == NULL || digits == 32) return;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | (at - HEX));
        digits++;
    }
    if (digits == 32) memcpy(out, id, 16);
}

static void boot_read(void)
{
    char text[64] = {0};
#if defined(__linux__)
    int fd;
    RETRY(fd, open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
    if (fd < 0) return; /* no /proc: not known */
    ssize_t got;
    RETRY(got, read(fd, text, sizeof text - 1));
    (void)close(fd);
    if (got <= 0) return;
#elif defined(__APPLE__)
    size_t n = sizeof text - 1;
    if (sysctlbyname("kern.bootsessionuuid", text, &n, NULL, 0) != 0) return;
#endif
    parse_uuid(text, boot.id);
}

static void posix_boot_id(lk_env *env, uint8_t out[16])
{
    (void)env;
    if (pthread_once(&boot.once, boot_read) != 0) abort();
    memcpy(out, boot.id, 16);
}

static bool posix_may_map(lk_env *env, const char *dir)
{
    (void)env;
#if defined(__linux__)
    enum { EXT_MAGIC = 0xEF53, XFS_MAGIC = 0x58465342, TMPFS_MAGIC = 0x01021994 };
    struct statfs info;
    if (statfs(dir, &info) != 0) return false;
    return info.f_type == EXT_MAGIC || info.f_type == XFS_MAGIC || info.f_type == TMPFS_MAGIC;
#else
    (void)dir;
    return false;
#endif
}

lk_env *lk_env_posix(void)
{
    static const lk_env_ops OPS = {
        .open = posix_open,
        .close = posix_close,
        .read = posix_read,
        .write = posix_write,
        .size = posix_size,
        .truncate = posix_truncate,
        .allocate = posix_allocate,
        .sync = posix_sync,
        .datasync = posix_datasync,
        .writeback = posix_writeback,
        .links = posix_links,
        .map = posix_map,
        .map_anonymous = posix_map_anonymous,
        .unmap = posix_unmap,
        .protect = posix_protect,
        .populate = posix_populate,
        .evict = posix_evict,
        .detach = posix_detach,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .link = posix_link,
        .mkdir = posix_mkdir,
        .rmdir = posix_rmdir,
        .sync_dir = posix_sync_dir,
        .exists = posix_exists,
        .list = posix_list,
        .lock = posix_lock_take,
        .unlock = posix_unlock,
        .now_ns = posix_now_ns,
        .wall_us = posix_wall_us,
        .random = posix_random,
        .boot_id = posix_boot_id,
        .may_map = posix_may_map,
    };
    static lk_env env = {.ops = &OPS};
    return &env;
}
