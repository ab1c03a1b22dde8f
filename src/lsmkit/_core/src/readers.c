/* readers.c: registrations of readers, and what the owner holds for them: see readers.h.
 *
 * A pin file is written in place while others read it; what does not have its checksum pins
 * everything, and so does a file that is not there yet.
 */
#include "readers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "hash.h"

enum {
    PATH_BYTES = 4096,
    TRIES = 100,
    PIN_HEAD_BYTES = 16,
    PIN_BYTES_MAX = PIN_HEAD_BYTES + 8 * LK_PIN_VERSIONS_MAX,
};

struct lk_registration {
    lk_env *env;
    char *dir;
    lk_lock_file *lock;
    lk_file *pin;
    char lock_path[PATH_BYTES], pin_path[PATH_BYTES];
};

static void folder_of(const char *dir, char out[PATH_BYTES])
{
    (void)snprintf(out, PATH_BYTES, "%.*s/readers", PATH_BYTES - 64, dir);
}

static uint64_t pin_hash(const uint8_t *bytes, size_t n)
{
    return lk_hash_bytes(0, 0, bytes + 8, n - 8);
}

/* ---- in a reader ---- */

/* A lock file of a name that nobody has. Between its making and its lock the owner may take it for
 * that of a dead reader and remove it, and with the last one goes the folder. LK_MISS: once more. */
static lk_status registration_lock(lk_registration *r, const char *folder, lk_error *err)
{
    uint64_t number;
    bool exists = false;
    lk_status st = lk_env_mkdir(r->env, folder, NULL, err);
    if (st != LK_OK) return st;
    lk_env_random(r->env, &number, sizeof number);
    (void)snprintf(r->lock_path, PATH_BYTES, "%.*s/%016" PRIx64 ".lock", PATH_BYTES - 32, folder,
                   number);
    (void)snprintf(r->pin_path, PATH_BYTES, "%.*s/%016" PRIx64 ".pin", PATH_BYTES - 32, folder,
                   number);
    st = lk_env_lock(r->env, r->lock_path, &r->lock, err);
    if (st == LK_LOCKED || st == LK_NOT_FOUND) return LK_MISS;
    if (st != LK_OK) return st;
    st = lk_env_exists(r->env, r->lock_path, &exists, NULL, err);
    if (st == LK_OK && exists) return LK_OK;
    lk_env_unlock(r->lock);
    r->lock = NULL;
    return st == LK_OK ? LK_MISS : st;
}

lk_status lk_registration_new(lk_env *env, const char *dir, lk_registration **out, lk_error *err)
{
    char folder[PATH_BYTES];
    lk_error why;
    *out = NULL;
    lk_registration *r = calloc(1, sizeof *r);
    char *copy = strdup(dir);
    if (r == NULL || copy == NULL) {
        free(r);
        free(copy);
        return lk_fail_nomem(err, sizeof *r);
    }
    r->env = env;
    r->dir = copy;
    folder_of(dir, folder);
    lk_status st = LK_MISS;
    for (int i = 0; i < TRIES && st == LK_MISS; i++) st = registration_lock(r, folder, &why);
    if (st == LK_OK) {
        *out = r;
        return LK_OK;
    }
    lk_registration_free(r);
    if (st == LK_NOMEM && err != NULL) *err = why;
    return st == LK_NOMEM ? st : LK_OK;
}

lk_status lk_registration_pin(lk_registration *r, const uint64_t *versions, size_t count,
                              lk_error *err)
{
    uint8_t bytes[PIN_BYTES_MAX];
    lk_status st = LK_OK;
    if (count > LK_PIN_VERSIONS_MAX) count = 0;
    if (r->pin == NULL) {
        LK_TRY(lk_env_open(r->env, r->pin_path, LK_OPEN_WRITE | LK_OPEN_CREATE, &r->pin, err));
    }
    size_t n = PIN_HEAD_BYTES + 8 * count;
    lk_store64(bytes + 8, count);
    for (size_t i = 0; i < count; i++) lk_store64(bytes + PIN_HEAD_BYTES + 8 * i, versions[i]);
    lk_store64(bytes, pin_hash(bytes, n));
    LK_TRY(lk_file_write(r->pin, 0, bytes, n, err));
done:
    return st;
}

void lk_registration_free(lk_registration *r)
{
    char folder[PATH_BYTES];
    if (r == NULL) return;
    lk_file_close(r->pin);
    if (r->lock != NULL) {
        /* The lock's file last: the pin of a reader without one would stay for ever. */
        (void)lk_env_unlink(r->env, r->pin_path, NULL);
        (void)lk_env_unlink(r->env, r->lock_path, NULL);
        lk_env_unlock(r->lock);
        folder_of(r->dir, folder);
        (void)lk_env_rmdir(r->env, folder, NULL); /* unless somebody else is in it */
    }
    free(r->dir);
    free(r);
}

/* ---- in the owner ---- */

/* What all living readers pin together. */
typedef struct pins {
    bool any, everything;
    uint64_t pid, since; /* of one of them, when there are any */
    uint64_t *versions;
    size_t count, capacity;
} pins;

static void pins_add(pins *p, uint64_t version)
{
    if (lk_array_grow(&p->versions, p->count, &p->capacity, sizeof version, NULL) == LK_OK) {
        p->versions[p->count++] = version;
    } else {
        p->everything = true;
    }
}

static void pins_read(pins *p, lk_env *env, const char *path)
{
    uint8_t bytes[PIN_BYTES_MAX];
    lk_file *file = NULL;
    size_t got = 0;
    lk_status st = lk_env_open(env, path, LK_OPEN_READ, &file, NULL);
    if (st == LK_OK) st = lk_file_read(file, 0, bytes, sizeof bytes, &got, NULL);
    lk_file_close(file);
    uint64_t count = got >= PIN_HEAD_BYTES ? lk_load64(bytes + 8) : 0;
    if (st != LK_OK || count == 0 || count > (got - PIN_HEAD_BYTES) / 8 ||
        lk_load64(bytes) != pin_hash(bytes, PIN_HEAD_BYTES + 8 * (size_t)count)) {
        p->everything = true;
        return;
    }
    for (size_t i = 0; i < count; i++) pins_add(p, lk_load64(bytes + PIN_HEAD_BYTES + 8 * i));
}

/* One reader, by the name of its lock's file: looked at when it lives, removed when it is dead. */
static void reader_look(pins *p, lk_env *env, const char *folder, const char *name, size_t stem)
{
    char lock_path[PATH_BYTES], pin_path[PATH_BYTES];
    lk_lock_file *lock = NULL;
    lk_error why = {0};
    (void)snprintf(lock_path, sizeof lock_path, "%.*s/%.64s", PATH_BYTES - 80, folder, name);
    (void)snprintf(pin_path, sizeof pin_path, "%.*s/%.*s.pin", PATH_BYTES - 80, folder, (int)stem,
                   name);
    lk_status st = lk_env_lock(env, lock_path, &lock, &why);
    p->any = p->any || st == LK_LOCKED;
    if (st == LK_OK) {
        (void)lk_env_unlink(env, pin_path, NULL);
        (void)lk_env_unlink(env, lock_path, NULL);
        lk_env_unlock(lock);
    } else if (st == LK_LOCKED) {
        p->pid = why.found;
        p->since = why.offset;
        pins_read(p, env, pin_path);
    } else {
        p->everything = true;
    }
}

static void pins_look(pins *p, lk_env *env, const char *dir)
{
    char folder[PATH_BYTES];
    lk_names names = {0};
    *p = (pins){0};
    folder_of(dir, folder);
    lk_status st = lk_env_list(env, folder, &names, NULL);
    if (st != LK_OK && st != LK_NOT_FOUND) p->everything = true;
    for (size_t i = 0; st == LK_OK && i < names.count; i++) {
        const char *name = names.names[i];
        size_t n = strlen(name);
        if (n != 21 || strcmp(name + 16, ".lock") != 0) continue;
        reader_look(p, env, folder, name, 16);
    }
    lk_names_free(&names);
}

static bool pins_have(const pins *p, uint64_t version)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->versions[i] == version) return true;
    }
    return p->everything;
}

static bool pins_have_before(const pins *p, uint64_t number)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->versions[i] < number) return true;
    }
    return p->everything;
}

bool lk_readers_before(lk_env *env, const char *dir, uint64_t number)
{
    pins p;
    pins_look(&p, env, dir);
    bool found = pins_have_before(&p, number);
    free(p.versions);
    return found;
}

lk_status lk_readers_end(lk_env *env, const char *dir, lk_error *err)
{
    char folder[PATH_BYTES];
    pins p;
    pins_look(&p, env, dir);
    free(p.versions);
    if (p.any) {
        return lk_fail(err, LK_LOCKED, 0, dir, p.since, 0, p.pid, "the store is open for reading");
    }
    folder_of(dir, folder);
    (void)lk_env_rmdir(env, folder, NULL); /* unless somebody else's files are in it */
    return LK_OK;
}

lk_status lk_readers_init(lk_readers *r, lk_env *env, const char *dir, lk_error *err)
{
    *r = (lk_readers){.env = env, .dir = strdup(dir)};
    lk_lock_init(&r->lock);
    return r->dir != NULL ? LK_OK : lk_fail_nomem(err, strlen(dir));
}

/* Of a version that is read elsewhere, when its owner goes. */
static void files_keep(const lk_version *v)
{
    for (uint32_t t = 0; t < v->tree_count; t++) {
        const lk_tree_version *tree = v->trees[t];
        for (uint32_t i = 0; tree != NULL && i < tree->file_count; i++) {
            lk_table_keep(tree->files[i].table);
        }
        const lk_blob_files *blobs = lk_version_blobs(v, t);
        for (uint32_t i = 0; blobs != NULL && i < blobs->count; i++) {
            lk_blob_file_keep(blobs->items[i].file);
        }
    }
}

void lk_readers_deinit(lk_readers *r)
{
    lk_readers_sweep(r);
    for (size_t i = 0; i < r->held_count; i++) {
        files_keep(r->held[i]);
        lk_version_unref(r->held[i]);
    }
    if (r->found != NULL) files_keep(r->found);
    lk_version_unref(r->found);
    free(r->held);
    for (size_t i = 0; i < r->left_count; i++) free(r->left[i]);
    free(r->left);
    free(r->dir);
    lk_lock_deinit(&r->lock);
    *r = (lk_readers){0};
}

void lk_readers_hold(lk_readers *r, lk_version *old)
{
    pins p;
    pins_look(&p, r->env, r->dir);
    bool needed = pins_have(&p, old->number);
    free(p.versions);
    if (!needed) return;
    lk_lock_acquire(&r->lock);
    if (lk_array_grow(&r->held, r->held_count, &r->held_capacity, sizeof(lk_version *), NULL) ==
        LK_OK) {
        lk_version_ref(old);
        r->held[r->held_count++] = old;
    } else {
        files_keep(old); /* no memory: the files stay, and the next owner removes them */
    }
    lk_lock_release(&r->lock);
}

bool lk_readers_begin(lk_readers *r, lk_version *found)
{
    pins p;
    pins_look(&p, r->env, r->dir);
    bool needed = pins_have_before(&p, found->number);
    free(p.versions);
    if (!needed) return false;
    LK_ASSERT(r->found == NULL);
    lk_version_ref(found);
    lk_lock_acquire(&r->lock);
    r->found = found;
    lk_lock_release(&r->lock);
    return true;
}

bool lk_readers_arrive(lk_readers *r)
{
    pins p;
    pins_look(&p, r->env, r->dir);
    free(p.versions);
    return p.everything;
}

lk_status lk_readers_leave(lk_readers *r, const char *path, lk_error *err)
{
    lk_status st = LK_OK;
    char *copy = strdup(path);
    if (copy == NULL) return lk_fail_nomem(err, strlen(path));
    LK_ASSERT(r->found != NULL);
    lk_lock_acquire(&r->lock);
    LK_TRY(lk_array_grow(&r->left, r->left_count, &r->left_capacity, sizeof(char *), err));
    r->left[r->left_count++] = copy;
    copy = NULL;
done:
    lk_lock_release(&r->lock);
    free(copy);
    return st;
}

/* Of the first `seen` versions held those that nobody pins, taken out of the list; the caller lets go
 * of them without the lock. What was held later than the look at the pins was held for a reader that
 * the look may not have met. */
static size_t held_take(lk_readers *r, const pins *p, size_t seen, lk_version **out, size_t max)
{
    size_t kept = 0, taken = 0;
    for (size_t i = 0; i < r->held_count; i++) {
        if (i < seen && taken < max && !pins_have(p, r->held[i]->number)) {
            out[taken++] = r->held[i];
        } else {
            r->held[kept++] = r->held[i];
        }
    }
    r->held_count = kept;
    return taken;
}

void lk_readers_sweep(lk_readers *r)
{
    pins p;
    lk_version *free_of[64];
    lk_lock_acquire(&r->lock);
    size_t seen = r->held_count;
    bool idle = seen == 0 && r->found == NULL;
    lk_lock_release(&r->lock);
    if (idle) return;
    pins_look(&p, r->env, r->dir);
    lk_lock_acquire(&r->lock);
    size_t n = held_take(r, &p, seen, free_of, sizeof free_of / sizeof *free_of);
    lk_version *found = r->found;
    if (found != NULL && pins_have_before(&p, found->number)) found = NULL;
    if (found != NULL) {
        r->found = NULL;
        for (size_t i = 0; i < r->left_count; i++) {
            (void)lk_env_unlink(r->env, r->left[i], NULL);
            free(r->left[i]);
        }
        r->left_count = 0;
    }
    lk_lock_release(&r->lock);
    free(p.versions);
    for (size_t i = 0; i < n; i++) lk_version_unref(free_of[i]);
    lk_version_unref(found);
}
