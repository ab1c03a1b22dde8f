/* env.c: what all environments share: arguments checked, outputs cleared, the table called.
 *
 * Owns      the path of every open file; lists of names.
 * Errors    LK_INVALID for ranges and flags that make no sense, before any system call: a number
 *           read from a file may have become an offset.
 */
#include "env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static lk_status check_range(const lk_file *file, uint64_t offset, uint64_t n, lk_error *err)
{
    if (LK_LIKELY(n <= (uint64_t)INT64_MAX && offset <= (uint64_t)INT64_MAX - n)) return LK_OK;
    return lk_fail(err, LK_INVALID, 0, file->path, offset, (uint64_t)INT64_MAX, n,
                   "no file has %llu bytes at %llu", (unsigned long long)n,
                   (unsigned long long)offset);
}

static lk_status check_path(const char *path, lk_error *err)
{
    LK_ASSERT(path != NULL);
    if (path[0] != '\0') return LK_OK;
    return lk_fail(err, LK_INVALID, 0, path, 0, 0, 0, "an empty path names no file");
}

lk_status lk_env_fail(lk_error *err, int sys_errno, const char *action, const char *path,
                      uint64_t offset)
{
    lk_status code = LK_IO;
    if (sys_errno == ENOENT) code = LK_NOT_FOUND;
    if (sys_errno == EEXIST) code = LK_EXISTS;
    if (sys_errno == ENOMEM) code = LK_NOMEM;
    char text[128];
    /* The two forms of strerror_r differ in what they return; both accept this buffer. */
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    const char *why = strerror_r(sys_errno, text, sizeof text);
#else
    const char *why = strerror_r(sys_errno, text, sizeof text) == 0 ? text : "unknown error";
#endif
    return lk_fail(err, code, sys_errno, path, offset, 0, 0, "cannot %s %s: %s", action,
                   path == NULL ? "" : path, why);
}

/* ---- files ---- */

lk_status lk_env_open(lk_env *env, const char *path, int flags, lk_file **out, lk_error *err)
{
    LK_ASSERT(env != NULL && out != NULL);
    *out = NULL;
    lk_status st = check_path(path, err);
    if (st != LK_OK) return st;
    bool writes = (flags & LK_OPEN_WRITE) != 0;
    bool fits = (flags & ~31) == 0 && (flags & (LK_OPEN_READ | LK_OPEN_WRITE)) != 0 &&
                (writes || (flags & (LK_OPEN_CREATE | LK_OPEN_TRUNCATE)) == 0) &&
                ((flags & LK_OPEN_EXCLUSIVE) == 0 || (flags & LK_OPEN_CREATE) != 0);
    if (!fits) {
        return lk_fail(err, LK_INVALID, 0, path, 0, 0, (uint64_t)flags,
                       "the flags %d do not go together", flags);
    }
    char *copy = strdup(path);
    if (copy == NULL) return lk_fail_nomem(err, strlen(path) + 1);
    lk_file *file = NULL;
    st = env->ops->open(env, path, flags, &file, err);
    if (st != LK_OK) {
        free(copy);
        return st;
    }
    file->env = env;
    file->path = copy;
    *out = file;
    return LK_OK;
}

void lk_file_close(lk_file *file)
{
    if (file == NULL) return;
    char *path = file->path;
    file->env->ops->close(file);
    free(path);
}

const char *lk_file_path(const lk_file *file) { return file->path; }

lk_status lk_file_read(lk_file *file, uint64_t offset, void *buf, size_t n, size_t *out_n,
                       lk_error *err)
{
    LK_ASSERT(file != NULL && out_n != NULL && (buf != NULL || n == 0));
    *out_n = 0;
    lk_status st = check_range(file, offset, n, err);
    if (st != LK_OK) return st;
    return file->env->ops->read(file, offset, buf, n, out_n, err);
}

lk_status lk_file_read_exact(lk_file *file, uint64_t offset, void *buf, size_t n, lk_error *err)
{
    size_t got = 0;
    lk_status st = lk_file_read(file, offset, buf, n, &got, err);
    if (st != LK_OK) return st;
    LK_ASSERT(got <= n);
    if (got == n) return LK_OK;
    return lk_fail_corrupt(err, file->path, offset, n, got,
                           "%s ends too early: %zu bytes expected at %llu, %zu found", file->path,
                           n, (unsigned long long)offset, got);
}

lk_status lk_file_write(lk_file *file, uint64_t offset, const void *buf, size_t n, lk_error *err)
{
    LK_ASSERT(file != NULL && (buf != NULL || n == 0));
    lk_status st = check_range(file, offset, n, err);
    if (st != LK_OK || n == 0) return st;
    return file->env->ops->write(file, offset, buf, n, err);
}

lk_status lk_file_size(lk_file *file, uint64_t *out_bytes, lk_error *err)
{
    LK_ASSERT(file != NULL && out_bytes != NULL);
    *out_bytes = 0;
    return file->env->ops->size(file, out_bytes, err);
}

lk_status lk_file_truncate(lk_file *file, uint64_t bytes, lk_error *err)
{
    LK_ASSERT(file != NULL);
    lk_status st = check_range(file, 0, bytes, err);
    if (st != LK_OK) return st;
    return file->env->ops->truncate(file, bytes, err);
}

lk_status lk_file_allocate(lk_file *file, uint64_t bytes, lk_error *err)
{
    LK_ASSERT(file != NULL);
    lk_status st = check_range(file, 0, bytes, err);
    if (st != LK_OK || bytes == 0) return st;
    return file->env->ops->allocate(file, bytes, err);
}

lk_status lk_file_sync(lk_file *file, lk_error *err)
{
    LK_ASSERT(file != NULL);
    return file->env->ops->sync(file, err);
}

lk_status lk_file_datasync(lk_file *file, lk_error *err)
{
    LK_ASSERT(file != NULL);
    return file->env->ops->datasync(file, err);
}

void lk_file_writeback(lk_file *file, uint64_t offset, uint64_t bytes)
{
    LK_ASSERT(file != NULL);
    if (bytes == 0 || check_range(file, offset, bytes, NULL) != LK_OK) return;
    file->env->ops->writeback(file, offset, bytes);
}

lk_status lk_file_links(lk_file *file, uint64_t *out_links, lk_error *err)
{
    LK_ASSERT(file != NULL && out_links != NULL);
    *out_links = 0;
    return file->env->ops->links(file, out_links, err);
}

/* ---- memory ---- */

lk_status lk_file_map(lk_file *file, size_t bytes, bool writable, uint8_t **out, lk_error *err)
{
    LK_ASSERT(file != NULL && out != NULL);
    *out = NULL;
    uint64_t size = 0;
    if (bytes == 0) {
        return lk_fail(err, LK_INVALID, 0, file->path, 0, 1, 0, "cannot map no bytes of %s",
                       file->path);
    }
    lk_status st = file->env->ops->size(file, &size, err);
    if (st != LK_OK) return st;
    if (size < bytes) {
        return lk_fail_corrupt(err, file->path, 0, bytes, size,
                               "%s has %llu bytes, too few to map %zu", file->path,
                               (unsigned long long)size, bytes);
    }
    return file->env->ops->map(file, bytes, writable, out, err);
}

lk_status lk_env_map_anonymous(lk_env *env, size_t bytes, uint8_t **out, lk_error *err)
{
    LK_ASSERT(env != NULL && out != NULL);
    *out = NULL;
    if (bytes == 0) return lk_fail(err, LK_INVALID, 0, NULL, 0, 1, 0, "cannot map no memory");
    return env->ops->map_anonymous(env, bytes, out, err);
}

void lk_env_unmap(lk_env *env, uint8_t *map, size_t bytes)
{
    LK_ASSERT(env != NULL);
    if (map == NULL) return;
    LK_ASSERT(bytes > 0);
    env->ops->unmap(env, map, bytes);
}

lk_status lk_env_protect(lk_env *env, uint8_t *map, size_t bytes, lk_error *err)
{
    LK_ASSERT(env != NULL && map != NULL && bytes > 0);
    return env->ops->protect(env, map, bytes, false, err);
}

lk_status lk_env_unprotect(lk_env *env, uint8_t *map, size_t bytes, lk_error *err)
{
    LK_ASSERT(env != NULL && map != NULL && bytes > 0);
    return env->ops->protect(env, map, bytes, true, err);
}

void lk_env_populate(lk_env *env, uint8_t *map, size_t bytes, bool write)
{
    LK_ASSERT(env != NULL && map != NULL && (uintptr_t)map % LK_PAGE_BYTES == 0);
    if (bytes > 0) env->ops->populate(env, map, bytes, write);
}

void lk_env_evict(lk_env *env, uint8_t *map, size_t bytes)
{
    LK_ASSERT(env != NULL && map != NULL);
    if (bytes > 0) env->ops->evict(env, map, bytes);
}

lk_status lk_env_detach(lk_env *env, uint8_t *map, size_t bytes, lk_error *err)
{
    LK_ASSERT(env != NULL && map != NULL && bytes > 0);
    return env->ops->detach(env, map, bytes, err);
}

/* ---- names ---- */

lk_status lk_env_rename(lk_env *env, const char *from, const char *to, lk_error *err)
{
    LK_ASSERT(env != NULL);
    lk_status st = LK_OK;
    LK_TRY(check_path(from, err));
    LK_TRY(check_path(to, err));
    LK_TRY(env->ops->rename(env, from, to, err));
done:
    return st;
}

lk_status lk_env_unlink(lk_env *env, const char *path, lk_error *err)
{
    LK_ASSERT(env != NULL);
    lk_status st = check_path(path, err);
    return st != LK_OK ? st : env->ops->unlink(env, path, err);
}

lk_status lk_env_link(lk_env *env, const char *from, const char *to, lk_error *err)
{
    LK_ASSERT(env != NULL);
    lk_status st = LK_OK;
    LK_TRY(check_path(from, err));
    LK_TRY(check_path(to, err));
    LK_TRY(env->ops->link(env, from, to, err));
done:
    return st;
}

lk_status lk_env_mkdir(lk_env *env, const char *path, bool *out_existed, lk_error *err)
{
    LK_ASSERT(env != NULL);
    bool existed = false;
    lk_status st = check_path(path, err);
    if (st == LK_OK) st = env->ops->mkdir(env, path, &existed, err);
    if (out_existed != NULL) *out_existed = existed;
    return st;
}

lk_status lk_env_rmdir(lk_env *env, const char *path, lk_error *err)
{
    LK_ASSERT(env != NULL);
    lk_status st = check_path(path, err);
    return st != LK_OK ? st : env->ops->rmdir(env, path, err);
}

lk_status lk_env_sync_dir(lk_env *env, const char *path, lk_error *err)
{
    LK_ASSERT(env != NULL);
    lk_status st = check_path(path, err);
    return st != LK_OK ? st : env->ops->sync_dir(env, path, err);
}

lk_status lk_env_exists(lk_env *env, const char *path, bool *out_exists, bool *out_is_dir,
                        lk_error *err)
{
    LK_ASSERT(env != NULL && out_exists != NULL);
    bool is_dir = false;
    *out_exists = false;
    lk_status st = check_path(path, err);
    if (st == LK_OK) st = env->ops->exists(env, path, out_exists, &is_dir, err);
    if (out_is_dir != NULL) *out_is_dir = is_dir;
    return st;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

lk_status lk_env_list(lk_env *env, const char *dir, lk_names *out, lk_error *err)
{
    LK_ASSERT(env != NULL && out != NULL);
    *out = (lk_names){0};
    lk_status st = LK_OK;
    LK_TRY(check_path(dir, err));
    LK_TRY(env->ops->list(env, dir, out, err));
    if (out->count > 1) qsort(out->names, out->count, sizeof *out->names, compare_names);
done:
    if (st != LK_OK) lk_names_free(out);
    return st;
}

lk_status lk_names_add(lk_names *names, const char *name, lk_error *err)
{
    /* The capacity is the power of two that the count has just filled. */
    if ((names->count & (names->count - 1)) == 0) {
        size_t capacity = names->count == 0 ? 1 : 2 * names->count;
        char **grown = realloc(names->names, capacity * sizeof *grown);
        if (grown == NULL) return lk_fail_nomem(err, capacity * sizeof *grown);
        names->names = grown;
    }
    char *copy = strdup(name);
    if (copy == NULL) return lk_fail_nomem(err, strlen(name) + 1);
    names->names[names->count++] = copy;
    return LK_OK;
}

void lk_names_free(lk_names *names)
{
    for (size_t i = 0; i < names->count; i++) free(names->names[i]);
    free(names->names);
    *names = (lk_names){0};
}

/* ---- one owner ---- */

lk_status lk_env_lock(lk_env *env, const char *path, lk_lock_file **out, lk_error *err)
{
    LK_ASSERT(env != NULL && out != NULL);
    *out = NULL;
    lk_status st = LK_OK;
    LK_TRY(check_path(path, err));
    LK_TRY(env->ops->lock(env, path, out, err));
    (*out)->env = env;
done:
    return st;
}

void lk_env_unlock(lk_lock_file *lock)
{
    if (lock != NULL) lock->env->ops->unlock(lock);
}

/* ---- time, chance, machine ---- */

uint64_t lk_env_now_ns(lk_env *env) { return env->ops->now_ns(env); }

uint64_t lk_env_wall_us(lk_env *env) { return env->ops->wall_us(env); }

void lk_env_random(lk_env *env, void *out, size_t n)
{
    LK_ASSERT(out != NULL || n == 0);
    if (n > 0) env->ops->random(env, out, n);
}

void lk_env_boot_id(lk_env *env, uint8_t out[16])
{
    memset(out, 0, 16);
    env->ops->boot_id(env, out);
}

bool lk_env_may_map(lk_env *env, const char *dir)
{
    LK_ASSERT(env != NULL && dir != NULL);
    return env->ops->may_map(env, dir);
}
