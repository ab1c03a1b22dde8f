/* env.h: the one table of functions through which the C core calls the operating system.
 *
 * Owns      nothing itself. An environment owns its files, mappings and locks; a caller owns each
 *           handle until it gives it back: open/close, map/unmap, lock/unlock, list/free.
 * Callers   everything that touches a disk, a clock or chance. env_posix.c is the real machine,
 *           env_sim.c one in memory that fails, fills up and loses power as a test wishes.
 * Threads   every function may be called from every thread. Of one file, writes to ranges that
 *           overlap, truncate and close are for the caller to put in order.
 * Always    paths and offsets go into every error; a file knows its own path; outputs are cleared
 *           first; ranges that no file can have are refused before the system is asked.
 * Errors    LK_NOT_FOUND and LK_EXISTS by name, LK_NOMEM for memory, LK_INVALID for arguments,
 *           LK_IO for everything else, with sys_errno. Calls that a signal broke off go on.
 */
#ifndef LK_ENV_H
#define LK_ENV_H

#include "status.h"

typedef struct lk_env lk_env;
typedef struct lk_file lk_file;
typedef struct lk_lock_file lk_lock_file;

/* Mappings, and what one write to a mapping may cost, are counted in these. */
enum { LK_PAGE_BYTES = 4096 };

/* The real machine: static, shared, never freed. */
lk_env *lk_env_posix(void);

/* ---- files ---- */

enum {
    LK_OPEN_READ = 1,
    LK_OPEN_WRITE = 2,     /* to read and to write */
    LK_OPEN_CREATE = 4,    /* make it where it is absent; needs WRITE */
    LK_OPEN_EXCLUSIVE = 8, /* LK_EXISTS where it is there; needs CREATE */
    LK_OPEN_TRUNCATE = 16, /* empty it; needs WRITE */
};

/* New files get mode 0666 less the umask. A symbolic link in the last place is refused (LK_IO,
 * ELOOP), and so is what is no regular file (LK_IO, EISDIR or EINVAL). Closed on exec. */
lk_status lk_env_open(lk_env *env, const char *path, int flags, lk_file **out, lk_error *err);
void lk_file_close(lk_file *file); /* NULL is fine; mappings made of it stay */
const char *lk_file_path(const lk_file *file);

/* Short only at the end of the file. `out_n` may not be NULL. */
lk_status lk_file_read(lk_file *file, uint64_t offset, void *buf, size_t n, size_t *out_n,
                       lk_error *err);
/* All `n` bytes, or LK_CORRUPT with the length expected and found. */
lk_status lk_file_read_exact(lk_file *file, uint64_t offset, void *buf, size_t n, lk_error *err);
/* All `n` bytes, or an error after which any part of them may be in the file. */
lk_status lk_file_write(lk_file *file, uint64_t offset, const void *buf, size_t n, lk_error *err);
lk_status lk_file_size(lk_file *file, uint64_t *out_bytes, lk_error *err);
/* Shorter, or longer by a hole that reads as zeros. Never below what is mapped. */
lk_status lk_file_truncate(lk_file *file, uint64_t bytes, lk_error *err);
/* Gives every byte from 0 to `bytes` a block of the disk, so that no later store into a mapping can
 * find the disk full; what was there stays, what is new reads as zeros, and the file is at least
 * `bytes` long. posix_fallocate's promise; where the file system cannot, zeros are written. */
lk_status lk_file_allocate(lk_file *file, uint64_t bytes, lk_error *err);
/* Content and metadata are on the disk when it returns 0 (fsync; F_FULLFSYNC on macOS). After a
 * failure the kernel may have dropped what it could not write and call it clean: a second sync that
 * succeeds proves nothing. */
lk_status lk_file_sync(lk_file *file, lk_error *err);
/* The same without times and modes (fdatasync); the length is included. */
lk_status lk_file_datasync(lk_file *file, lk_error *err);
/* Begins to write a range to the disk and does not wait; a hint, which never fails. */
void lk_file_writeback(lk_file *file, uint64_t offset, uint64_t bytes);
/* Names that the file has: 1 unless it is hard-linked, 0 once it is unlinked. */
lk_status lk_file_links(lk_file *file, uint64_t *out_links, lk_error *err);

/* ---- memory ---- */

/* Maps the file's first `bytes` bytes, shared; kept out of forked children. A file shorter than
 * that is LK_CORRUPT, because touching what is not there kills the process. */
lk_status lk_file_map(lk_file *file, size_t bytes, bool writable, uint8_t **out, lk_error *err);
/* Zeroed private memory, page-aligned, kept out of forked children. */
lk_status lk_env_map_anonymous(lk_env *env, size_t bytes, uint8_t **out, lk_error *err);
/* Gives back either kind, whole; NULL is fine. */
void lk_env_unmap(lk_env *env, uint8_t *map, size_t bytes);
/* Read-only from here on: a stray store faults instead of damaging a frozen segment. `map` and the
 * end of the range are page-aligned, or the end is that of the mapping. */
lk_status lk_env_protect(lk_env *env, uint8_t *map, size_t bytes, lk_error *err);
lk_status lk_env_unprotect(lk_env *env, uint8_t *map, size_t bytes, lk_error *err);
/* Makes the pages present (for `write`: writable without a fault, and dirty) where the kernel has
 * MADV_POPULATE_*; elsewhere nothing happens. `map` is page-aligned, or nothing happens either. Never
 * fails. */
void lk_env_populate(lk_env *env, uint8_t *map, size_t bytes, bool write);
/* Takes the pages of a file mapping out of the process; the file keeps what they hold, and a touch
 * brings them back. `map` is page-aligned. A hint. */
void lk_env_evict(lk_env *env, uint8_t *map, size_t bytes);
/* Puts, at the same address, an anonymous copy in the place of a whole file mapping, so that
 * readers keep what the kernel may drop after a failed sync. Readers may go on meanwhile; the
 * caller keeps writers out. The copy is writable. LK_UNSUPPORTED where the kernel has no mremap. */
lk_status lk_env_detach(lk_env *env, uint8_t *map, size_t bytes, lk_error *err);

/* ---- names ---- */

/* Replaces `to` where it is there. Neither this nor the next four are on the disk before
 * lk_env_sync_dir of the directory. */
lk_status lk_env_rename(lk_env *env, const char *from, const char *to, lk_error *err);
lk_status lk_env_unlink(lk_env *env, const char *path, lk_error *err); /* absent: LK_NOT_FOUND */
lk_status lk_env_link(lk_env *env, const char *from, const char *to, lk_error *err);
/* A directory that is there already is fine, and told in `out_existed` (may be NULL); anything
 * else of that name is LK_EXISTS. */
lk_status lk_env_mkdir(lk_env *env, const char *path, bool *out_existed, lk_error *err);
lk_status lk_env_rmdir(lk_env *env, const char *path, lk_error *err); /* only an empty one */
lk_status lk_env_sync_dir(lk_env *env, const char *path, lk_error *err);
/* Follows symbolic links. `out_is_dir` may be NULL. */
lk_status lk_env_exists(lk_env *env, const char *path, bool *out_exists, bool *out_is_dir,
                        lk_error *err);

/* Names in a directory, in the order of their bytes, without "." and "..". */
typedef struct lk_names {
    char **names;
    size_t count;
} lk_names;
lk_status lk_env_list(lk_env *env, const char *dir, lk_names *out, lk_error *err);
void lk_names_free(lk_names *names); /* leaves an empty list */

/* ---- one owner ---- */

/* Takes the lock file at `path`, makes it where it is absent, and writes "pid seconds\n" into it.
 * Held by another process, or by this one: LK_LOCKED with found = the owner's pid, offset = when it
 * took the lock, in seconds since 1970 (0 where not known), and both in the message.
 * It goes when the process ends, however it ends; a forked child does not have it. */
lk_status lk_env_lock(lk_env *env, const char *path, lk_lock_file **out, lk_error *err);
/* The file stays. NULL is fine. In a forked child it only frees memory. */
void lk_env_unlock(lk_lock_file *lock);

/* ---- time, chance, machine ---- */

uint64_t lk_env_now_ns(lk_env *env);  /* monotonic */
uint64_t lk_env_wall_us(lk_env *env); /* since 1970; may jump */
void lk_env_random(lk_env *env, void *out, size_t n);
/* Differs from boot to boot of the machine; zeros where it is not known. */
void lk_env_boot_id(lk_env *env, uint8_t out[16]);
/* Whether a file in `dir` may be written through a mapping: ext2/3/4, XFS and tmpfs on Linux, where
 * a page once allocated can always be stored to. */
bool lk_env_may_map(lk_env *env, const char *dir);

/* ---- for those that implement an environment ---- */

/* The head of every open file; `path` is freed by lk_file_close after the table's close. */
struct lk_file {
    lk_env *env;
    char *path;
};

struct lk_lock_file {
    lk_env *env;
};

/* Arguments are checked, outputs cleared, before a function of the table is called; the meanings
 * are those of the functions above with the same name. */
typedef struct lk_env_ops {
    lk_status (*open)(lk_env *env, const char *path, int flags, lk_file **out, lk_error *err);
    void (*close)(lk_file *file);
    lk_status (*read)(lk_file *file, uint64_t offset, void *buf, size_t n, size_t *out_n,
                      lk_error *err);
    lk_status (*write)(lk_file *file, uint64_t offset, const void *buf, size_t n, lk_error *err);
    lk_status (*size)(lk_file *file, uint64_t *out_bytes, lk_error *err);
    lk_status (*truncate)(lk_file *file, uint64_t bytes, lk_error *err);
    lk_status (*allocate)(lk_file *file, uint64_t bytes, lk_error *err);
    lk_status (*sync)(lk_file *file, lk_error *err);
    lk_status (*datasync)(lk_file *file, lk_error *err);
    void (*writeback)(lk_file *file, uint64_t offset, uint64_t bytes);
    lk_status (*links)(lk_file *file, uint64_t *out_links, lk_error *err);

    lk_status (*map)(lk_file *file, size_t bytes, bool writable, uint8_t **out, lk_error *err);
    lk_status (*map_anonymous)(lk_env *env, size_t bytes, uint8_t **out, lk_error *err);
    void (*unmap)(lk_env *env, uint8_t *map, size_t bytes);
    lk_status (*protect)(lk_env *env, uint8_t *map, size_t bytes, bool writable, lk_error *err);
    void (*populate)(lk_env *env, uint8_t *map, size_t bytes, bool write);
    void (*evict)(lk_env *env, uint8_t *map, size_t bytes);
    lk_status (*detach)(lk_env *env, uint8_t *map, size_t bytes, lk_error *err);

    lk_status (*rename)(lk_env *env, const char *from, const char *to, lk_error *err);
    lk_status (*unlink)(lk_env *env, const char *path, lk_error *err);
    lk_status (*link)(lk_env *env, const char *from, const char *to, lk_error *err);
    lk_status (*mkdir)(lk_env *env, const char *path, bool *out_existed, lk_error *err);
    lk_status (*rmdir)(lk_env *env, const char *path, lk_error *err);
    lk_status (*sync_dir)(lk_env *env, const char *path, lk_error *err);
    lk_status (*exists)(lk_env *env, const char *path, bool *out_exists, bool *out_is_dir,
                        lk_error *err);
    lk_status (*list)(lk_env *env, const char *dir, lk_names *out, lk_error *err);

    lk_status (*lock)(lk_env *env, const char *path, lk_lock_file **out, lk_error *err);
    void (*unlock)(lk_lock_file *lock);

    uint64_t (*now_ns)(lk_env *env);
    uint64_t (*wall_us)(lk_env *env);
    void (*random)(lk_env *env, void *out, size_t n);
    void (*boot_id)(lk_env *env, uint8_t out[16]);
    bool (*may_map)(lk_env *env, const char *dir);
} lk_env_ops;

struct lk_env {
    const lk_env_ops *ops;
};

/* Adds a copy of `name`; the environment's list function needs no order. */
lk_status lk_names_add(lk_names *names, const char *name, lk_error *err);
/* The error that a system call's errno stands for: `action` reads like "open" in "cannot open". */
lk_status lk_env_fail(lk_error *err, int sys_errno, const char *action, const char *path,
                      uint64_t offset);

#endif
