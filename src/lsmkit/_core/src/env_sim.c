/* env_sim.c: the simulated machine's table of functions: each begins a call (sim_machine.h), works
 * on the disk (sim_disk.h), and ends the call.
 *
 * Owns      open files and locks.
 * Always    closing, unmapping and unlocking work on a dead machine and on stale handles.
 */
#include "env_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "sim_disk.h"
#include "sim_machine.h"

typedef struct lk_sim_lock {
    lk_lock_file base;
    struct lk_sim_lock *next;
    lk_sim_inode *inode; /* counted */
    uint64_t life;
    uint64_t since;
} lk_sim_lock;

typedef struct sim_file {
    lk_file base;
    lk_sim_inode *inode; /* counted */
    uint64_t life;
    bool is_writable;
} sim_file;

static lk_sim *sim_of(lk_env *env) { return (lk_sim *)(void *)env; }

/* As lk_sim_call_begin, of a file; a stale handle fails without being counted. */
static lk_sim_call file_begin(lk_file *base, lk_sim_op op, bool is_change, uint64_t offset,
                              uint64_t n)
{
    const sim_file *file = (const sim_file *)base;
    lk_sim *sim = sim_of(base->env);
    lk_sim_hold(sim);
    if (file->life != sim->life) {
        return (lk_sim_call){.sim = sim, .op = op, .path = base->path, .sys_errno = EIO};
    }
    if (is_change && n > 0) {
        return lk_sim_call_begin(sim, op, base->path, is_change, "%llu+%llu",
                                 (unsigned long long)offset, (unsigned long long)n);
    }
    return lk_sim_call_begin(sim, op, base->path, is_change, "%s", "");
}

static lk_sim_inode *inode_of(const lk_file *file) { return ((const sim_file *)file)->inode; }

/* ---- files ---- */

static lk_status sim_open(lk_env *env, const char *path, int flags, lk_file **out, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    sim_file *file = calloc(1, sizeof *file);
    if (file == NULL) return lk_fail_nomem(err, sizeof *file);
    lk_sim_hold(sim);
    lk_sim_inode *inode = lk_sim_disk_find(&sim->disk, path);
    bool makes = inode == NULL && (flags & LK_OPEN_CREATE) != 0;
    bool empties = inode != NULL && (flags & LK_OPEN_TRUNCATE) != 0;
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_OPEN, path, makes || empties, "%s",
                                         makes ? "new" : (empties ? "empty" : ""));
    int why = call.sys_errno;
    if (why == 0 && inode == NULL && !makes) why = ENOENT;
    if (why == 0 && inode != NULL && (flags & LK_OPEN_EXCLUSIVE) != 0) why = EEXIST;
    if (why == 0 && inode != NULL && inode->is_dir) why = EINVAL;
    if (why == 0 && makes) why = lk_sim_disk_make(&sim->disk, path, false, &inode);
    if (why == 0 && empties) why = lk_sim_file_truncate(&sim->disk, inode, 0);
    if (why == 0) {
        file->inode = lk_sim_inode_use(&sim->disk, inode);
        file->life = sim->life;
        file->is_writable = (flags & LK_OPEN_WRITE) != 0;
        *out = &file->base;
        file = NULL;
    }
    lk_status st = lk_sim_call_end(&call, why, err);
    free(file);
    return st;
}

static void sim_close(lk_file *base)
{
    const sim_file *file = (const sim_file *)base;
    lk_sim *sim = sim_of(base->env);
    lk_sim_hold(sim);
    if (file->life == sim->life) {
        lk_sim_inode_unuse(&sim->disk, file->inode);
    } else {
        lk_sim_inode_unref(&sim->disk, file->inode);
    }
    lk_sim_let_go(sim);
    free(base);
}

static lk_status sim_read(lk_file *file, uint64_t offset, void *buf, size_t n, size_t *out_n,
                          lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_READ, false, offset, n);
    call.offset = offset;
    if (call.sys_errno == 0) *out_n = lk_sim_file_read(inode_of(file), offset, buf, n);
    return lk_sim_call_end(&call, call.sys_errno, err);
}

static bool may_write(const lk_file *file) { return ((const sim_file *)file)->is_writable; }

/* A machine that stops during a write has reached the end of some page of it, or none. */
static size_t write_cut(lk_sim *sim, uint64_t offset, size_t n)
{
    uint64_t first = offset / LK_SIM_PAGE_BYTES;
    uint64_t pages = (offset + n - 1) / LK_SIM_PAGE_BYTES - first + 1;
    uint64_t full = lk_sim_below(&sim->fortune, pages);
    return full == 0 ? 0 : (size_t)((first + full) * LK_SIM_PAGE_BYTES - offset);
}

static lk_status sim_write(lk_file *file, uint64_t offset, const void *buf, size_t n, lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_WRITE, true, offset, n);
    lk_sim *sim = call.sim;
    int why = call.sys_errno;
    size_t done = 0;
    if (!may_write(file)) {
        why = EBADF;
    } else if (call.stops_machine) {
        size_t keep = write_cut(sim, offset, n);
        (void)lk_sim_file_write(&sim->disk, inode_of(file), offset, buf, keep, &done);
        lk_sim_machine_stop(sim);
    } else if (why == 0) {
        why = lk_sim_file_write(&sim->disk, inode_of(file), offset, buf, n, &done);
    } else if (call.keep_bytes > 0) {
        size_t keep = call.keep_bytes < n ? call.keep_bytes : n;
        (void)lk_sim_file_write(&sim->disk, inode_of(file), offset, buf, keep, &done);
    }
    call.offset = offset + done;
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_size(lk_file *file, uint64_t *out_bytes, lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_SIZE, false, 0, 0);
    if (call.sys_errno == 0) *out_bytes = inode_of(file)->now.bytes;
    return lk_sim_call_end(&call, call.sys_errno, err);
}

static lk_status sim_truncate(lk_file *file, uint64_t bytes, lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_TRUNCATE, true, 0, bytes);
    int why = call.sys_errno;
    if (why == 0 && !may_write(file)) why = EINVAL;
    if (why == 0) why = lk_sim_file_truncate(&call.sim->disk, inode_of(file), bytes);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_allocate(lk_file *file, uint64_t bytes, lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_ALLOCATE, true, 0, bytes);
    int why = call.sys_errno;
    if (why == 0 && !may_write(file)) why = EBADF;
    if (why == 0) why = lk_sim_file_allocate(&call.sim->disk, inode_of(file), bytes);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sync_as(lk_file *file, lk_sim_op op, lk_error *err)
{
    lk_sim_call call = file_begin(file, op, true, 0, 0);
    lk_sim *sim = call.sim;
    int why = call.sys_errno;
    if (why == 0) {
        why = lk_sim_file_sync(&sim->disk, inode_of(file));
    } else if (!sim->is_dead && ((const sim_file *)file)->life == sim->life) {
        if (lk_sim_file_sync_failed(&sim->disk, inode_of(file), &sim->fortune) != 0) abort();
    }
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_sync(lk_file *file, lk_error *err) { return sync_as(file, LK_SIM_SYNC, err); }

static lk_status sim_datasync(lk_file *file, lk_error *err)
{
    return sync_as(file, LK_SIM_DATASYNC, err);
}

static void sim_writeback(lk_file *file, uint64_t offset, uint64_t bytes)
{
    /* A hint, and this kernel writes when lk_sim_set_writeback says so. */
    (void)file;
    (void)offset;
    (void)bytes;
}

static lk_status sim_links(lk_file *file, uint64_t *out_links, lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_LINKS, false, 0, 0);
    if (call.sys_errno == 0) *out_links = inode_of(file)->links;
    return lk_sim_call_end(&call, call.sys_errno, err);
}

/* ---- memory ---- */

static lk_status sim_map(lk_file *file, size_t bytes, bool writable, uint8_t **out, lk_error *err)
{
    lk_sim_call call = file_begin(file, LK_SIM_MAP, false, 0, 0);
    int why = call.sys_errno;
    if (why == 0 && writable && !may_write(file)) why = EACCES;
    if (why == 0) why = lk_sim_file_map(&call.sim->disk, inode_of(file), bytes, writable, out);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_map_memory(lk_env *env, size_t bytes, uint8_t **out, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_MAP_ANONYMOUS, "memory", false, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_map_anonymous(&sim->disk, bytes, out);
    return lk_sim_call_end(&call, why, err);
}

static void sim_unmap_call(lk_env *env, uint8_t *map, size_t bytes)
{
    lk_sim *sim = sim_of(env);
    (void)bytes;
    lk_sim_hold(sim);
    lk_sim_unmap(&sim->disk, map);
    lk_sim_let_go(sim);
}

static lk_status sim_protect_call(lk_env *env, uint8_t *map, size_t bytes, bool writable,
                                  lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_PROTECT, "a mapping", false, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_protect(&sim->disk, map, bytes, writable);
    return lk_sim_call_end(&call, why, err);
}

static void sim_populate(lk_env *env, uint8_t *map, size_t bytes, bool write)
{
    (void)env;
    (void)map;
    (void)bytes;
    (void)write;
}

static void sim_evict(lk_env *env, uint8_t *map, size_t bytes)
{
    (void)env;
    (void)map;
    (void)bytes;
}

static lk_status sim_detach_call(lk_env *env, uint8_t *map, size_t bytes, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    (void)bytes;
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_DETACH, "a mapping", false, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_detach(&sim->disk, map);
    return lk_sim_call_end(&call, why, err);
}

/* ---- names ---- */

static lk_status sim_rename(lk_env *env, const char *from, const char *to, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_RENAME, from, true, "%s", to);
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_disk_rename(&sim->disk, from, to);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_unlink(lk_env *env, const char *path, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_UNLINK, path, true, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_disk_remove(&sim->disk, path, false);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_link(lk_env *env, const char *from, const char *to, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_LINK, from, true, "%s", to);
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_disk_link(&sim->disk, from, to);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_mkdir(lk_env *env, const char *path, bool *out_existed, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_MKDIR, path, true, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_disk_make(&sim->disk, path, true, NULL);
    if (why == EEXIST && lk_sim_disk_find(&sim->disk, path)->is_dir) {
        *out_existed = true;
        why = 0;
    }
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_rmdir(lk_env *env, const char *path, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_RMDIR, path, true, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_disk_remove(&sim->disk, path, true);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_sync_dir(lk_env *env, const char *path, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_SYNC_DIR, path, true, "%s", "");
    int why = call.sys_errno;
    if (why == 0) why = lk_sim_disk_sync_dir(&sim->disk, path);
    return lk_sim_call_end(&call, why, err);
}

static lk_status sim_exists(lk_env *env, const char *path, bool *out_exists, bool *out_is_dir,
                            lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_EXISTS, path, false, "%s", "");
    if (call.sys_errno == 0) {
        const lk_sim_inode *inode = lk_sim_disk_find(&sim->disk, path);
        *out_exists = inode != NULL;
        *out_is_dir = inode != NULL && inode->is_dir;
    }
    return lk_sim_call_end(&call, call.sys_errno, err);
}

static lk_status sim_list(lk_env *env, const char *path, lk_names *out, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_sim_call call = lk_sim_call_begin(sim, LK_SIM_LIST, path, false, "%s", "");
    int why = call.sys_errno;
    const lk_sim_inode *dir = lk_sim_disk_find(&sim->disk, path);
    if (why == 0 && dir == NULL) why = ENOENT;
    if (why == 0 && !dir->is_dir) why = ENOTDIR;
    for (size_t i = 0; why == 0 && i < dir->names.count; i++) {
        if (lk_names_add(out, dir->names.items[i].name, NULL) != LK_OK) why = ENOMEM;
    }
    return lk_sim_call_end(&call, why, err);
}

/* ---- one owner ---- */

static const lk_sim_lock *locks_find(const lk_sim *sim, const lk_sim_inode *inode)
{
    for (const lk_sim_lock *lock = sim->locks; lock != NULL; lock = lock->next) {
        if (lock->inode == inode) return lock;
    }
    return NULL;
}

static lk_status sim_lock_take(lk_env *env, const char *path, lk_lock_file **out, lk_error *err)
{
    lk_sim *sim = sim_of(env);
    lk_sim_lock *lock = calloc(1, sizeof *lock);
    if (lock == NULL) return lk_fail_nomem(err, sizeof *lock);
    lk_sim_hold(sim);
    lk_sim_inode *inode = lk_sim_disk_find(&sim->disk, path);
    lk_sim_call call =
        lk_sim_call_begin(sim, LK_SIM_LOCK, path, inode == NULL, "%s", inode == NULL ? "new" : "");
    int why = call.sys_errno;
    if (why == 0 && inode == NULL) why = lk_sim_disk_make(&sim->disk, path, false, &inode);
    if (why == 0 && inode->is_dir) why = EISDIR;
    const lk_sim_lock *holder = why == 0 ? locks_find(sim, inode) : NULL;
    if (holder != NULL) {
        uint64_t since = holder->since, pid = (uint64_t)getpid();
        (void)lk_sim_call_end(&call, 0, err);
        free(lock);
        return lk_fail(err, LK_LOCKED, 0, path, since, 0, pid,
                       "%s is held by process %llu since second %llu", path,
                       (unsigned long long)pid, (unsigned long long)since);
    }
    if (why == 0) {
        char text[64];
        size_t done = 0;
        lock->inode = lk_sim_inode_ref(inode);
        lock->life = sim->life;
        lock->since = lk_sim_machine_wall_us(sim) / 1000000;
        lock->next = sim->locks;
        sim->locks = lock;
        int n = snprintf(text, sizeof text, "%lld %llu\n", (long long)getpid(),
                         (unsigned long long)lock->since);
        /* The lock holds also where a full disk has no room for this. */
        if (lk_sim_file_truncate(&sim->disk, inode, 0) == 0) {
            (void)lk_sim_file_write(&sim->disk, inode, 0, text, (size_t)n, &done);
        }
        *out = &lock->base;
        lock = NULL;
    }
    lk_status st = lk_sim_call_end(&call, why, err);
    free(lock);
    return st;
}

static void sim_unlock(lk_lock_file *base)
{
    lk_sim *sim = sim_of(base->env);
    lk_sim_lock *lock = (lk_sim_lock *)base;
    lk_sim_hold(sim);
    for (lk_sim_lock **at = &sim->locks; *at != NULL; at = &(*at)->next) {
        if (*at == lock) {
            *at = lock->next;
            break;
        }
    }
    lk_sim_inode_unref(&sim->disk, lock->inode);
    lk_sim_let_go(sim);
    free(lock);
}

/* ---- time, chance, machine ---- */

static uint64_t sim_now_ns(lk_env *env)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    sim->now_ns += LK_SIM_CALL_NS;
    uint64_t now_ns = sim->is_real ? lk_env_now_ns(lk_env_posix()) : sim->now_ns;
    lk_sim_let_go(sim);
    return now_ns;
}

static uint64_t sim_wall_us(lk_env *env)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    sim->now_ns += LK_SIM_CALL_NS;
    uint64_t us = lk_sim_machine_wall_us(sim);
    lk_sim_let_go(sim);
    return us;
}

static void sim_random_fill(lk_env *env, void *out, size_t n)
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    if (sim->is_real) {
        lk_env_random(lk_env_posix(), out, n);
    } else {
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)out)[i] = (uint8_t)(lk_sim_random(&sim->chance) >> 56);
    }
    lk_sim_let_go(sim);
}

static void sim_boot_id(lk_env *env, uint8_t out[16])
{
    lk_sim *sim = sim_of(env);
    lk_sim_hold(sim);
    lk_store64(out, lk_sim_scatter(sim->seed));
    lk_store64(out + 8, lk_sim_scatter(sim->boots));
    lk_sim_let_go(sim);
}

static bool sim_may_map(lk_env *env, const char *dir)
{
    lk_sim *sim = sim_of(env);
    (void)dir;
    lk_sim_hold(sim);
    bool may_map = sim->may_map;
    lk_sim_let_go(sim);
    return may_map;
}

lk_sim *lk_sim_new(uint64_t seed)
{
    static const lk_env_ops OPS = {
        .open = sim_open,
        .close = sim_close,
        .read = sim_read,
        .write = sim_write,
        .size = sim_size,
        .truncate = sim_truncate,
        .allocate = sim_allocate,
        .sync = sim_sync,
        .datasync = sim_datasync,
        .writeback = sim_writeback,
        .links = sim_links,
        .map = sim_map,
        .map_anonymous = sim_map_memory,
        .unmap = sim_unmap_call,
        .protect = sim_protect_call,
        .populate = sim_populate,
        .evict = sim_evict,
        .detach = sim_detach_call,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .link = sim_link,
        .mkdir = sim_mkdir,
        .rmdir = sim_rmdir,
        .sync_dir = sim_sync_dir,
        .exists = sim_exists,
        .list = sim_list,
        .lock = sim_lock_take,
        .unlock = sim_unlock,
        .now_ns = sim_now_ns,
        .wall_us = sim_wall_us,
        .random = sim_random_fill,
        .boot_id = sim_boot_id,
        .may_map = sim_may_map,
    };
    return lk_sim_machine_new(seed, &OPS);
}
