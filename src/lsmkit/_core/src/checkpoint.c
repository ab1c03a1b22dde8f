/* checkpoint.c: see checkpoint.h.
 *
 * Owns      the state taken from the source, and the lock of the place where files are made, for
 *           the time of a call.
 * Always    a reference to the version keeps its tables' files while they are linked; the log is
 *           never linked, so that its segments can be recycled; nothing that CURRENT of the place
 *           names is removed or replaced before CURRENT names something else.
 */
#include "checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "destroy.h"
#include "manifest_file.h"
#include "readers.h"

#define MAKING ".making"
#define COPY_BYTES (1u << 20)

typedef struct checkpoint {
    lk_env *env; /* of the place */
    lk_env *source_env;
    const char *source;    /* directory */
    const char *path;      /* what is asked for */
    char dir[LK_PATH_MAX]; /* where files are made: `path` itself, or a name beside it */
    lk_lock_file *lock;
    /* of the source */
    lk_version *version;
    lk_properties properties;
    lk_manifest_state state;
    uint64_t manifest; /* number of the one that is written */
    /* of the checkpoint that is there already; NULL: none is */
    lk_manifest *older;
    lk_version *older_version;
    bool fresh;    /* `dir` was made for this, and is ours to remove */
    bool linking;  /* an older checkpoint may hold files that it does not name */
    bool may_link; /* until it is seen that the file system does not let us */
    bool switched; /* CURRENT may name the new manifest */
} checkpoint;

static const lk_tree_file *version_file(const lk_version *v, uint32_t tree, uint64_t file)
{
    const lk_tree_version *t = lk_version_tree(v, tree);
    return t != NULL ? lk_tree_version_file(t, file) : NULL;
}

static bool version_holds(const lk_version *v, uint64_t file)
{
    for (uint32_t tree = 0; tree < v->tree_count; tree++) {
        if (version_file(v, tree, file) != NULL) return true;
    }
    return false;
}

/* ---- what is there ---- */

static lk_status refuse(const checkpoint *c, const char *why, lk_error *err)
{
    return lk_fail(err, LK_EXISTS, 0, c->path, 0, 0, 0, "%s: %s", c->path, why);
}

/* Fresh: nothing, or an empty directory. Everything but a store of lsmkit is refused. */
static lk_status place_look(checkpoint *c, bool *out_onto, lk_error *err)
{
    lk_status st = LK_OK;
    lk_names names = {0};
    bool exists, is_dir;
    *out_onto = false;
    LK_TRY(lk_env_exists(c->env, c->path, &exists, &is_dir, err));
    if (!exists) goto done;
    if (!is_dir) {
        st = refuse(c, "is not a directory", err);
        goto done;
    }
    LK_TRY(lk_manifest_exists(c->env, c->path, out_onto, err));
    if (*out_onto) goto done;
    LK_TRY(lk_env_list(c->env, c->path, &names, err));
    if (names.count > 0) st = refuse(c, "there are other files, and no checkpoint", err);
done:
    lk_names_free(&names);
    return st;
}

static lk_status older_read(checkpoint *c, lk_error *err)
{
    lk_manifest_options o = {.read_only = true};
    lk_version_unref(c->older_version);
    lk_manifest_close(c->older);
    c->older = NULL;
    c->older_version = NULL;
    lk_status st = lk_manifest_open(c->env, c->path, &o, NULL, &c->older, err);
    if (st == LK_OK) c->older_version = lk_manifest_version(c->older);
    return st;
}

/* Before anything is written there, its lock included, its manifest proves that it is a store. */
static lk_status older_open(checkpoint *c, lk_error *err)
{
    lk_status st = LK_OK;
    (void)snprintf(c->dir, sizeof c->dir, "%s", c->path);
    LK_TRY(older_read(c, err));
    LK_TRY(lk_dir_lock(c->env, c->path, &c->lock, err));
    LK_TRY(older_read(c, err));
done:
    return st;
}

static const char *property(const lk_properties *p, const char *name)
{
    bool found;
    size_t i = lk_properties_find(p, name, &found);
    return found ? p->items[i].value : "";
}

static lk_status older_check(const checkpoint *c, lk_error *err)
{
    const char *id = lk_manifest_property(c->older, LK_PROPERTY_STORE_ID);
    if (id == NULL || strcmp(id, property(&c->properties, LK_PROPERTY_STORE_ID)) != 0) {
        return refuse(c, "is another store", err);
    }
    if (lk_manifest_property(c->older, LK_PROPERTY_CHECKPOINT) == NULL) {
        return refuse(c, "is a store, not a checkpoint of one", err);
    }
    if (c->older_version->number > c->version->number) {
        return refuse(c, "is a checkpoint of a later state of the store", err);
    }
    for (uint32_t tree = 0; tree < c->older_version->tree_count; tree++) {
        const lk_tree_version *t = c->older_version->trees[tree];
        for (uint32_t i = 0; t != NULL && i < t->file_count; i++) {
            const lk_tree_file *now = version_file(c->version, tree, t->files[i].file);
            if (now != NULL &&
                lk_table_meta_of(now->table)->nonce != lk_table_meta_of(t->files[i].table)->nonce) {
                return refuse(c, "is a checkpoint of another store of the same origin", err);
            }
        }
    }
    return LK_OK;
}

/* ---- making files ---- */

/* A directory beside the place, emptied of what a crash has left there. */
static lk_status fresh_begin(checkpoint *c, lk_error *err)
{
    static const lk_file_kind kinds[] = {LK_FILE_CURRENT, LK_FILE_CURRENT_NEXT, LK_FILE_MANIFEST,
                                         LK_FILE_TABLE, LK_FILE_BLOB};
    lk_status st = LK_OK;
    lk_names names = {0};
    int n = snprintf(c->dir, sizeof c->dir, "%s" MAKING, c->path);
    if (n < 0 || (size_t)n >= sizeof c->dir) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, sizeof c->dir, (uint64_t)n,
                       "the path of the checkpoint is too long");
    }
    LK_TRY(lk_env_mkdir(c->env, c->dir, NULL, err));
    LK_TRY(lk_dir_lock(c->env, c->dir, &c->lock, err));
    c->fresh = true;
    LK_TRY(lk_env_list(c->env, c->dir, &names, err));
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        LK_TRY(lk_files_remove(c->env, c->dir, &names, kinds[k], err));
    }
done:
    lk_names_free(&names);
    return st;
}

static lk_status copy_file(const checkpoint *c, const char *from, const char *to, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *in = NULL, *out = NULL;
    uint64_t at = 0;
    uint8_t *buffer = malloc(COPY_BYTES);
    if (buffer == NULL) return lk_fail_nomem(err, COPY_BYTES);
    LK_TRY(lk_env_open(c->source_env, from, LK_OPEN_READ, &in, err));
    LK_TRY(lk_env_open(c->env, to, LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_EXCLUSIVE, &out, err));
    for (size_t n = COPY_BYTES; n == COPY_BYTES; at += n) {
        LK_TRY(lk_file_read(in, at, buffer, COPY_BYTES, &n, err));
        if (n > 0) LK_TRY(lk_file_write(out, at, buffer, n, err));
    }
    LK_TRY(lk_file_sync(out, err));
done:
    lk_file_close(in);
    lk_file_close(out);
    free(buffer);
    return st;
}

/* Another file system, one without links, one whose links are used up or forbidden. */
static bool is_no_link(lk_status st, const lk_error *e)
{
    return st == LK_IO &&
           (e->sys_errno == EXDEV || e->sys_errno == EPERM || e->sys_errno == EACCES ||
            e->sys_errno == EMLINK || e->sys_errno == ENOSYS || e->sys_errno == ENOTSUP ||
            e->sys_errno == EOPNOTSUPP);
}

static lk_status file_bring(checkpoint *c, const char *from, const char *to, lk_error *err)
{
    lk_status st = LK_OK;
    lk_error why = {0};
    if (c->may_link) {
        st = lk_env_link(c->env, from, to, &why);
        if (st == LK_EXISTS) {
            /* Of a checkpoint that was broken off: nothing names it, and it may be half a copy. */
            LK_TRY(lk_env_unlink(c->env, to, err));
            st = lk_env_link(c->env, from, to, &why);
        }
        if (st == LK_OK) return LK_OK;
        if (!is_no_link(st, &why)) {
            if (err != NULL) *err = why;
            return st;
        }
        c->may_link = why.sys_errno == EMLINK; /* that is of one file alone */
    }
    st = lk_env_unlink(c->env, to, err);
    if (st == LK_OK || st == LK_NOT_FOUND) st = copy_file(c, from, to, err);
done:
    return st;
}

static lk_status table_bring(checkpoint *c, uint64_t file, lk_error *err)
{
    char from[LK_PATH_MAX], to[LK_PATH_MAX];
    lk_table_path(c->source, file, from, sizeof from);
    lk_table_path(c->dir, file, to, sizeof to);
    return file_bring(c, from, to, err);
}

static lk_status blobs_bring(checkpoint *c, const lk_blob_files *files, lk_error *err)
{
    for (uint32_t i = 0; files != NULL && i < files->count; i++) {
        char from[LK_PATH_MAX], to[LK_PATH_MAX];
        uint64_t file = lk_blob_file_number(files->items[i].file);
        if (c->older != NULL && lk_version_uses_blob(c->older_version, file)) continue;
        lk_blob_path(c->source, file, from, sizeof from);
        lk_blob_path(c->dir, file, to, sizeof to);
        lk_status st = file_bring(c, from, to, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

static lk_status tables_bring(checkpoint *c, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t tree = 0; tree < c->version->tree_count; tree++) {
        const lk_tree_version *t = c->version->trees[tree];
        for (uint32_t i = 0; t != NULL && i < t->file_count; i++) {
            uint64_t file = t->files[i].file;
            bool there = c->older != NULL && version_file(c->older_version, tree, file) != NULL;
            if (!there) LK_TRY(table_bring(c, file, err));
        }
        LK_TRY(blobs_bring(c, lk_version_blobs(c->version, tree), err));
    }
    LK_TRY(lk_env_sync_dir(c->env, c->dir, err));
done:
    return st;
}

static lk_status manifest_make(checkpoint *c, lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest_out out = {.file = NULL};
    LK_TRY(lk_manifest_write_file(c->env, c->dir, 1u << 20, c->manifest, c->version, &c->properties,
                                  &c->state, &out, err));
    c->switched = true;
    LK_TRY(lk_manifest_write_current(c->env, c->dir, c->manifest, err));
done:
    lk_file_close(out.file);
    return st;
}

static lk_status fresh_publish(checkpoint *c, lk_error *err)
{
    char parent[LK_PATH_MAX];
    lk_path_parent(c->path, parent);
    lk_status st = lk_env_rename(c->env, c->dir, c->path, err);
    return st == LK_OK ? lk_env_sync_dir(c->env, parent, err) : st;
}

/* What `keep` does not name goes; tables and files of values only when nobody reads an older state. What stays does no
 * harm: the next checkpoint tries again, and so does whoever opens this one to write. */
static void rest_remove(const checkpoint *c, const lk_version *keep, uint64_t manifest)
{
    lk_names names = {0};
    if (lk_env_list(c->env, c->dir, &names, NULL) != LK_OK) return;
    bool are_read = lk_readers_before(c->env, c->dir, keep->number);
    for (size_t i = 0; i < names.count; i++) {
        uint64_t number;
        char path[LK_PATH_MAX];
        lk_file_kind kind = lk_file_kind_of(names.names[i], &number);
        bool is_old = (kind == LK_FILE_TABLE && !are_read && !version_holds(keep, number)) ||
                      (kind == LK_FILE_BLOB && !are_read && !lk_version_uses_blob(keep, number)) ||
                      (kind == LK_FILE_MANIFEST && number != manifest) ||
                      kind == LK_FILE_CURRENT_NEXT;
        if (is_old && lk_path_join(c->dir, names.names[i], path, NULL) == LK_OK) {
            (void)lk_env_unlink(c->env, path, NULL);
        }
    }
    lk_names_free(&names);
}

/* After a failure: as it was before, as far as the disk allows. */
static void take_back(checkpoint *c)
{
    char path[LK_PATH_MAX];
    uint64_t number;
    lk_version *none = NULL;
    if (c->linking && !c->switched &&
        lk_manifest_read_current(c->env, c->dir, &number, NULL) == LK_OK) {
        rest_remove(c, c->older_version, number);
    }
    if (c->fresh && (none = lk_version_empty()) != NULL) {
        if (lk_path_join(c->dir, "CURRENT", path, NULL) == LK_OK) {
            (void)lk_env_unlink(c->env, path, NULL);
        }
        rest_remove(c, none, 0);
        if (lk_path_join(c->dir, "LOCK", path, NULL) == LK_OK) {
            (void)lk_env_unlink(c->env, path, NULL);
        }
        (void)lk_env_rmdir(c->env, c->dir, NULL);
    }
    lk_version_unref(none);
}

/* ---- the whole ---- */

/* After the flush every record acknowledged before it is in the version. */
static lk_status state_take(checkpoint *c, lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    lk_edit mark;
    lk_edit_init(&mark);
    LK_TRY(lk_store_flush(s, err));
    lk_lock_acquire(&s->edit_lock);
    c->manifest = lk_manifest_next_file(s->manifest);
    st = lk_manifest_copy_state(s->manifest, &c->version, &c->properties, &c->state, err);
    lk_lock_release(&s->edit_lock);
    if (st != LK_OK) goto done;
    /* There is no log, so nothing of it is durable, and all that was written is in tables. */
    c->state.durable_generation = c->state.durable_end = 0;
    c->state.clean = true;
    LK_TRY(lk_edit_set(&mark, LK_PROPERTY_CHECKPOINT, "1", err));
    LK_TRY(lk_properties_apply(&c->properties, &mark, err));
done:
    lk_edit_deinit(&mark);
    return st;
}

static lk_status run(checkpoint *c, lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    bool onto;
    LK_TRY(place_look(c, &onto, err));
    if (onto) LK_TRY(older_open(c, err));
    LK_TRY(state_take(c, s, err));
    if (onto) {
        LK_TRY(older_check(c, err));
        if (c->older_version->number == c->version->number) goto done; /* nothing is new */
        c->linking = true;
    } else {
        LK_TRY(fresh_begin(c, err));
    }
    LK_TRY(tables_bring(c, err));
    LK_TRY(manifest_make(c, err));
    if (onto) {
        rest_remove(c, c->version, c->manifest);
    } else {
        LK_TRY(fresh_publish(c, err));
    }
done:
    return st;
}

lk_status lk_store_checkpoint(lk_store *s, lk_env *to, const char *path, lk_error *err)
{
    if (s->options.read_only) {
        return lk_fail(err, LK_READONLY, 0, s->dir, 0, 0, 0,
                       "a checkpoint is made by the store's owner, who can flush its log");
    }
    checkpoint c = {
        .env = to,
        .source_env = s->env,
        .source = s->dir,
        .path = path,
        .may_link = to == s->env,
    };
    lk_status st = run(&c, s, err);
    if (st != LK_OK) take_back(&c);
    lk_env_unlock(c.lock);
    lk_manifest_close(c.older);
    lk_version_unref(c.older_version);
    lk_version_unref(c.version);
    lk_properties_free(&c.properties);
    return st;
}
