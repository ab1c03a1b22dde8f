/* manifest.c: the files MANIFEST-NNNNNN and CURRENT. See manifest.h and FORMAT-manifest.md.
 *
 * Owns      see manifest.h. Files are written and read in manifest_file.c, what lines say in
 *           manifest_line.c, versions in version_build.c.
 * Always    an edit is in the file and synced before its version is current; `chain` and `size`
 *           speak of what is synced; after the first failed write nothing more is written.
 *           CURRENT never names a manifest that is not whole and synced, directory included.
 *
 *     append   write line, fdatasync
 *     rotate   write MANIFEST-n, fsync, fsync dir; write CURRENT.tmp, fsync, rename, fsync dir;
 *              unlink the old one
 *     open     read; cut a torn line and fsync; write the last line again and fdatasync (settle)
 *
 * The last line is written again because a sync that failed may have left it in the kernel's memory
 * only, called clean: a later sync proves nothing about pages that were not written since. Lines
 * before it were followed by an append, which only happens once they are durable.
 */
#include "manifest.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "lock.h"
#include "manifest_file.h"
#include "version_build.h"

enum { OPEN_TRIES = 16 }; /* of a reader whose manifest is rotated away under it */

struct lk_manifest {
    /* fixed after open */
    lk_env *env;
    lk_cache *cache;
    char *dir;
    lk_manifest_options options;
    bool was_clean;
    /* under the caller's edit lock */
    lk_file *file;
    uint64_t file_number;
    uint64_t size;       /* where the next line goes */
    uint64_t base_bytes; /* the lines of the state that it began with */
    uint64_t chain;      /* checksum of the last line */
    uint8_t *last_line;  /* to be written again, see the head of this file; NULL: it was */
    size_t last_line_len;
    bool has_failed;
    lk_error failure;
    lk_json_writer line;
    /* guarded by `lock` */
    lk_lock lock;
    lk_properties properties;        /* of an owner: under the caller's edit lock */
    struct old_properties *replaced; /* by following; somebody may look at their texts */
    lk_version *version;
    lk_manifest_state state; /* next_file in it is not kept up */
    /* atomic; relaxed: numbers only have to differ */
    _Atomic uint64_t next_file;
};

typedef struct old_properties {
    struct old_properties *next;
    lk_properties properties;
} old_properties;

/* ---- state ---- */

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Behind all files of values that the table uses. */
static uint64_t blobs_end(const lk_table_meta *m)
{
    return m->blob_count == 0 ? 0 : m->blobs[m->blob_count - 1].file + 1;
}

/* What an edit says beside tables and properties. Marks only rise. */
static void state_apply(lk_manifest_state *s, const lk_edit *e)
{
    s->last_seq = larger(s->last_seq, e->last_seq);
    s->log_retired = larger(s->log_retired, e->log_retired);
    if (e->durable_generation != 0) {
        s->durable_generation = e->durable_generation;
        s->durable_end = e->durable_end;
    }
    s->clean = e->clean;
    for (size_t i = 0; i < e->add_count; i++) {
        s->next_file = larger(s->next_file, e->adds[i].meta.file + 1);
        s->next_file = larger(s->next_file, e->adds[i].stamp + 1);
        s->next_file = larger(s->next_file, blobs_end(&e->adds[i].meta));
    }
}

/* ---- replay ---- */

typedef struct replay {
    lk_manifest_scan *scan;
    uint64_t file_number;
    lk_version_build *build;
    lk_properties *properties;
    lk_manifest_state state;
    bool is_complete;    /* the base is */
    uint64_t base_bytes; /* its lines */
    uint8_t *text;       /* the line that is being read: reading changes it */
    size_t text_bytes;
} replay;

/* An error of what a line means, with the place of the line. */
static lk_status blame_line(const lk_manifest_scan *s, lk_status st, lk_error *err)
{
    if (st != LK_CORRUPT || err == NULL) return st;
    lk_error was = *err;
    return lk_fail_corrupt(err, s->path, s->from + s->line_start, was.expected, was.found, "%s",
                           was.message);
}

static lk_status misplaced(const replay *r, const char *what, uint64_t expected, uint64_t found,
                           lk_error *err)
{
    return lk_fail_corrupt(err, r->scan->path, r->scan->from + r->scan->line_start, expected, found,
                           "%s", what);
}

static lk_status replay_base(replay *r, const lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    bool is_first = r->scan->line_start == 0;
    uint32_t both = LK_LINE_FORMAT | LK_LINE_EDIT;
    if ((line->kinds & both) != (is_first ? both : 0) || (line->kinds & LK_LINE_CHANGE) != 0) {
        return misplaced(r, "not a line of the state that a manifest begins with", 0, 0, err);
    }
    if (is_first && line->manifest != r->file_number) {
        return misplaced(r, "the manifest is another one by its first line", r->file_number,
                         line->manifest, err);
    }
    if (is_first) {
        r->state = line->state;
        state_apply(&r->state, &line->edit);
    }
    for (size_t i = 0; i < line->edit.add_count; i++) {
        const lk_edit_add *add = &line->edit.adds[i];
        LK_TRY(lk_version_build_define(r->build, &add->meta, add->level, add->stamp, err));
        r->state.next_file = larger(r->state.next_file, larger(add->meta.file, add->stamp) + 1);
        r->state.next_file = larger(r->state.next_file, blobs_end(&add->meta));
    }
    for (size_t i = 0; i < line->range_count; i++) {
        const lk_manifest_range *g = &line->ranges[i];
        LK_TRY(lk_version_build_range(r->build, g->tree, g->lower, err));
        for (size_t k = 0; k < g->count; k++) {
            LK_TRY(lk_version_build_place(r->build, g->tree, g->lower, line->files[g->first + k],
                                          err));
        }
    }
    LK_TRY(lk_version_build_delete(r->build, line->edit.deletes, line->edit.delete_count, err));
    LK_TRY(lk_properties_apply(r->properties, &line->edit, err));
    if ((line->kinds & LK_LINE_COMPLETE) != 0) {
        LK_TRY(lk_version_build_whole(r->build, err));
        r->is_complete = true;
        r->base_bytes = r->scan->pos;
    }
done:
    return st;
}

static lk_status replay_edit(replay *r, const lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t never = LK_LINE_FORMAT | LK_LINE_BASE | LK_LINE_COMPLETE;
    if ((line->kinds & LK_LINE_EDIT) == 0 || (line->kinds & never) != 0) {
        return misplaced(r, "not an edit, where edits stand", 0, 0, err);
    }
    if (line->state.number != r->state.number + 1) {
        return misplaced(r, "an edit has another number than the next one", r->state.number + 1,
                         line->state.number, err);
    }
    LK_TRY(lk_version_build_edit(r->build, &line->edit, err));
    LK_TRY(lk_properties_apply(r->properties, &line->edit, err));
    r->state.number++;
    r->state.next_file = larger(r->state.next_file, line->state.next_file);
    state_apply(&r->state, &line->edit);
done:
    return st;
}

/* A copy of a line: the file's bytes must stay, the last line is written again. */
static lk_status replay_copy(replay *r, const uint8_t *json, size_t len, lk_error *err)
{
    if (r->text == NULL || len > r->text_bytes) {
        size_t bytes = len < 4096 ? 8192 : len * 2;
        uint8_t *text = realloc(r->text, bytes);
        if (text == NULL) return lk_fail_nomem(err, bytes);
        r->text = text;
        r->text_bytes = bytes;
    }
    memcpy(r->text, json, len);
    return LK_OK;
}

static lk_status replay_line(replay *r, const uint8_t *json, size_t len, lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest_line line;
    lk_manifest_line_init(&line);
    LK_TRY(replay_copy(r, json, len, err));
    LK_TRY(lk_manifest_line_read(r->text, len, r->scan->path, (uint64_t)(json - r->scan->data),
                                 &line, err));
    if (line.state.next_file >= LK_FILE_MAX) {
        st = misplaced(r, "a next file number that is never reached", LK_FILE_MAX,
                       line.state.next_file, err);
        goto done;
    }
    st = r->is_complete ? replay_edit(r, &line, err) : replay_base(r, &line, err);
    if (st != LK_OK) st = blame_line(r->scan, st, err);
done:
    lk_manifest_line_deinit(&line);
    return st;
}

static lk_status replay_scan(replay *r, lk_version **out, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t *json = NULL;
    size_t len;
    lk_manifest_scan *s = r->scan;
    do {
        LK_TRY(lk_manifest_scan_next(s, &json, &len, err));
        if (json != NULL) LK_TRY(replay_line(r, json, len, err));
    } while (json != NULL);
    if (!r->is_complete) {
        st = lk_fail_corrupt(err, s->path, s->from + s->pos, 0, 0,
                             "the manifest ends before the state that it begins with does");
        goto done;
    }
    st = lk_version_build_finish(r->build, r->state.number, out, err);
done:
    lk_version_build_free(r->build);
    free(r->text);
    return st;
}

/* The version, properties and state that the scanned file says. */
static lk_status replay_all(lk_manifest *m, lk_manifest_scan *s, lk_error *err)
{
    replay r = {.scan = s, .file_number = m->file_number, .properties = &m->properties};
    lk_status st = lk_version_build_new(NULL, m->env, m->dir, m->cache, &r.build, err);
    if (st == LK_OK) st = replay_scan(&r, &m->version, err);
    m->state = r.state;
    m->base_bytes = r.base_bytes;
    return st;
}

/* ---- opening ---- */

static lk_status manifest_new(lk_env *env, const char *dir, const lk_manifest_options *options,
                              lk_cache *cache, lk_manifest **out, lk_error *err)
{
    *out = NULL;
    lk_manifest *m = calloc(1, sizeof *m);
    char *copy = strdup(dir);
    if (m == NULL || copy == NULL) {
        free(m);
        free(copy);
        return lk_fail_nomem(err, sizeof *m);
    }
    m->env = env;
    m->cache = cache;
    m->dir = copy;
    if (options != NULL) m->options = *options;
    if (m->options.rotate_bytes == 0) m->options.rotate_bytes = 4u << 20;
    if (m->options.line_bytes == 0) m->options.line_bytes = 1u << 20;
    lk_lock_init(&m->lock);
    lk_json_writer_init(&m->line, LK_EDIT_BYTES_MAX);
    atomic_init(&m->next_file, 1);
    *out = m;
    return LK_OK;
}

void lk_manifest_close(lk_manifest *m)
{
    if (m == NULL) return;
    lk_version_unref(m->version);
    lk_file_close(m->file);
    free(m->last_line);
    lk_json_writer_deinit(&m->line);
    lk_properties_free(&m->properties);
    while (m->replaced != NULL) {
        old_properties *old = m->replaced;
        m->replaced = old->next;
        lk_properties_free(&old->properties);
        free(old);
    }
    lk_lock_deinit(&m->lock);
    free(m->dir);
    free(m);
}

lk_status lk_manifest_exists(lk_env *env, const char *dir, bool *out, lk_error *err)
{
    char path[LK_MANIFEST_PATH_BYTES];
    *out = false;
    lk_status st = lk_manifest_path(dir, "CURRENT", path, err);
    return st != LK_OK ? st : lk_env_exists(env, path, out, NULL, err);
}

lk_status lk_manifest_create(lk_env *env, const char *dir, const lk_manifest_options *options,
                             lk_cache *cache, lk_manifest **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest *m = NULL;
    lk_manifest_out f = {.file = NULL};
    bool exists;
    *out = NULL;
    LK_TRY(lk_manifest_exists(env, dir, &exists, err));
    if (exists) {
        return lk_fail(err, LK_EXISTS, 0, dir, 0, 0, 0, "there is a store already: %s", dir);
    }
    LK_TRY(manifest_new(env, dir, options, cache, &m, err));
    if (m->options.read_only) {
        st = lk_fail(err, LK_READONLY, 0, dir, 0, 0, 0, "a new store cannot be read only: %s", dir);
        goto done;
    }
    m->version = lk_version_empty();
    if (m->version == NULL) {
        st = lk_fail_nomem(err, sizeof *m->version);
        goto done;
    }
    m->file_number = lk_manifest_next_file(m);
    m->state.next_file = m->file_number + 1;
    LK_TRY(lk_manifest_write_file(env, dir, m->options.line_bytes, m->file_number, m->version,
                                  &m->properties, &m->state, &f, err));
    m->file = f.file;
    m->size = m->base_bytes = f.size;
    m->chain = f.chain;
    LK_TRY(lk_manifest_write_current(env, dir, m->file_number, err));
    *out = m;
    m = NULL;
done:
    lk_manifest_close(m);
    return st;
}

/* Opens the file that CURRENT names. A reader beside a live owner may find it rotated away between
 * the two steps, and then looks at CURRENT again. */
static lk_status open_file(lk_manifest *m, uint64_t *number, lk_file **out, lk_error *err)
{
    lk_status st = LK_OK;
    char name[LK_MANIFEST_NAME_BYTES], path[LK_MANIFEST_PATH_BYTES];
    for (int try = 0;; try++) {
        uint64_t before = *number;
        LK_TRY(lk_manifest_read_current(m->env, m->dir, number, err));
        lk_manifest_name(*number, name);
        LK_TRY(lk_manifest_path(m->dir, name, path, err));
        st = lk_env_open(m->env, path, m->options.read_only ? LK_OPEN_READ : LK_OPEN_WRITE, out,
                         err);
        if (st != LK_NOT_FOUND) goto done;
        if (!m->options.read_only || before == *number || try == OPEN_TRIES) {
            st = lk_fail_corrupt(err, path, 0, 0, 0, "CURRENT names %s, which is not there", name);
            goto done;
        }
    }
done:
    return st;
}

static lk_status fail_again(const lk_manifest *m, lk_error *err)
{
    const lk_error *f = &m->failure;
    return lk_fail(err, f->code, f->sys_errno, f->path, f->offset, f->expected, f->found, "%s",
                   f->message);
}

/* Makes what was read durable, and ready to be continued. */
static lk_status settle_file(lk_manifest *m, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(lk_file_write(m->file, m->size - m->last_line_len, m->last_line, m->last_line_len, err));
    LK_TRY(lk_file_datasync(m->file, err));
    /* No edit yet: the rename of CURRENT may not have become durable either. */
    if (m->size - m->last_line_len < m->base_bytes) {
        LK_TRY(lk_manifest_write_current(m->env, m->dir, m->file_number, err));
    }
done:
    return st;
}

/* What was cut off must be gone before anything is written there; and the last line is kept, to be
 * written again. */
static lk_status end_adopt(lk_manifest *m, lk_manifest_scan *s, lk_error *err)
{
    lk_status st = LK_OK;
    m->size = s->pos;
    if (s->is_torn) {
        LK_TRY(lk_file_truncate(m->file, s->pos, err));
        LK_TRY(lk_file_sync(m->file, err));
    } else if (s->lacks_newline) {
        s->data[m->size++] = '\n';
    }
    m->last_line_len = m->size - s->line_start;
    m->last_line = malloc(m->last_line_len + 1);
    if (m->last_line == NULL) return lk_fail_nomem(err, m->last_line_len);
    memcpy(m->last_line, s->data + s->line_start, m->last_line_len);
done:
    return st;
}

/* Manifests that were not finished, or not removed, when a process ended. What cannot be removed
 * does no harm, and is tried again at the next opening. */
static lk_status leftovers_find(lk_manifest *m, bool remove, lk_error *err)
{
    lk_names names;
    lk_status st = lk_env_list(m->env, m->dir, &names, err);
    for (size_t i = 0; st == LK_OK && i < names.count; i++) {
        uint64_t number;
        char path[LK_MANIFEST_PATH_BYTES];
        bool is_manifest = lk_manifest_number(names.names[i], &number);
        if (is_manifest) lk_manifest_saw_file(m, number);
        bool is_leftover =
            is_manifest ? number != m->file_number : strcmp(names.names[i], "CURRENT.tmp") == 0;
        if (!is_leftover || !remove) continue;
        st = lk_manifest_path(m->dir, names.names[i], path, err);
        if (st == LK_OK) (void)lk_env_unlink(m->env, path, NULL);
    }
    lk_names_free(&names);
    return st;
}

lk_status lk_manifest_settle(lk_manifest *m, lk_error *err)
{
    lk_status st = LK_OK;
    if (m->has_failed) return fail_again(m, err);
    if (m->last_line == NULL) return LK_OK;
    st = settle_file(m, &m->failure);
    if (st != LK_OK) {
        m->has_failed = true;
        return fail_again(m, err);
    }
    free(m->last_line);
    m->last_line = NULL;
    return leftovers_find(m, true, err);
}

lk_status lk_manifest_open(lk_env *env, const char *dir, const lk_manifest_options *options,
                           lk_cache *cache, lk_manifest **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest *m = NULL;
    lk_manifest_scan s = {.data = NULL};
    *out = NULL;
    LK_TRY(manifest_new(env, dir, options, cache, &m, err));
    LK_TRY(open_file(m, &m->file_number, &m->file, err));
    LK_TRY(lk_manifest_scan_load(&s, m->file, m->file_number, err));
    LK_TRY(replay_all(m, &s, err));
    m->chain = s.chain;
    m->was_clean = m->state.clean;
    atomic_store_explicit(&m->next_file, larger(m->state.next_file, m->file_number + 1),
                          memory_order_relaxed);
    m->size = s.pos;
    if (m->options.read_only) {
        m->size += s.lacks_newline; /* its owner is just writing it */
    } else {
        LK_TRY(end_adopt(m, &s, err));
        LK_TRY(leftovers_find(m, false, err));
        if (!m->options.settle_later) LK_TRY(lk_manifest_settle(m, err));
    }
    *out = m;
    m = NULL;
done:
    lk_manifest_scan_free(&s);
    lk_manifest_close(m);
    return st;
}

/* ---- following ---- */

/* What was replayed takes the place of what holds. Takes over `version` and, when they were set,
 * `properties`, whose place `old` is for. */
static void follow_publish(lk_manifest *m, lk_version *version, replay *r, old_properties *old)
{
    lk_lock_acquire(&m->lock);
    lk_version *before = m->version;
    m->version = version;
    m->state = r->state;
    if (old != NULL) {
        old->properties = m->properties;
        old->next = m->replaced;
        m->replaced = old;
        m->properties = *r->properties;
        *r->properties = (lk_properties){NULL, 0};
    }
    lk_lock_release(&m->lock);
    lk_version_unref(before);
}

lk_status lk_manifest_follow(lk_manifest *m, bool *out_properties, lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest_scan s = {.data = NULL};
    lk_properties properties = {NULL, 0};
    lk_version *version = NULL;
    old_properties *old = NULL;
    lk_file *file = NULL;
    uint64_t number;
    replay r = {.scan = &s, .properties = &properties};
    LK_ASSERT(m->options.read_only);
    *out_properties = false;
    LK_TRY(lk_manifest_read_current(m->env, m->dir, &number, err));
    if (number == m->file_number) {
        LK_TRY(lk_manifest_scan_load_from(&s, m->file, m->size, m->chain, err));
        if (s.size == 0) goto done;
        LK_TRY(lk_properties_copy(&m->properties, &properties, err));
        LK_TRY(lk_version_build_new(m->version, m->env, m->dir, m->cache, &r.build, err));
        r.state = m->state;
        r.is_complete = true;
    } else {
        number = 0;
        LK_TRY(open_file(m, &number, &file, err));
        LK_TRY(lk_manifest_scan_load(&s, file, number, err));
        LK_TRY(lk_version_build_new(NULL, m->env, m->dir, m->cache, &r.build, err));
        lk_version_build_share(r.build, m->version);
    }
    r.file_number = number;
    LK_TRY(replay_scan(&r, &version, err));
    /* A new file has them all, and edits set what has been so before. */
    bool differ = !lk_properties_equal(&properties, &m->properties);
    if (differ) {
        old = malloc(sizeof *old);
        if (old == NULL) {
            st = lk_fail_nomem(err, sizeof *old);
            goto done;
        }
    }
    *out_properties = differ;
    follow_publish(m, version, &r, old);
    version = NULL;
    m->size = s.from + s.pos + s.lacks_newline;
    m->chain = s.chain;
    if (file != NULL) {
        lk_file_close(m->file);
        m->file = file;
        m->file_number = number;
        file = NULL;
    }
done:
    lk_version_unref(version);
    lk_properties_free(&properties);
    lk_manifest_scan_free(&s);
    lk_file_close(file);
    return st;
}

/* ---- appending ---- */

static lk_status append_line(lk_manifest *m, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t chain = m->chain;
    LK_TRY(lk_manifest_write_line(m->file, m->size, &chain, m->line.data, m->line.len, err));
    LK_TRY(lk_file_datasync(m->file, err));
    m->chain = chain;
    m->size += m->line.len;
done:
    return st;
}

static bool is_too_long(const lk_manifest *m, const lk_edit *edit)
{
    uint64_t most = edit->clean ? m->options.rotate_bytes / 16 : m->options.rotate_bytes;
    return m->size > most && m->size / 2 > m->base_bytes;
}

/* A new manifest that begins with the state after the edit takes the place of the old one. */
static lk_status rotate(lk_manifest *m, const lk_version *version, const lk_properties *properties,
                        lk_manifest_state *state, lk_error *err)
{
    lk_status st = LK_OK;
    char name[LK_MANIFEST_NAME_BYTES], path[LK_MANIFEST_PATH_BYTES];
    lk_manifest_out f = {.file = NULL};
    uint64_t number = lk_manifest_next_file(m);
    lk_manifest_name(m->file_number, name);
    LK_TRY(lk_manifest_path(m->dir, name, path, err));
    state->next_file = atomic_load_explicit(&m->next_file, memory_order_relaxed);
    LK_TRY(lk_manifest_write_file(m->env, m->dir, m->options.line_bytes, number, version,
                                  properties, state, &f, err));
    LK_TRY(lk_manifest_write_current(m->env, m->dir, number, err));
    lk_file_close(m->file);
    m->file = f.file;
    f.file = NULL;
    m->file_number = number;
    m->size = m->base_bytes = f.size;
    m->chain = f.chain;
    /* One that cannot be removed does no harm; the next opening tries again. */
    (void)lk_env_unlink(m->env, path, NULL);
done:
    lk_file_close(f.file);
    return st;
}

/* The edit is durable: its version is what there is from now on. */
static void publish(lk_manifest *m, lk_version *version, const lk_manifest_state *state,
                    lk_version **out)
{
    lk_lock_acquire(&m->lock);
    lk_version *old = m->version;
    m->version = version;
    m->state = *state;
    if (out != NULL) {
        lk_version_ref(version);
        *out = version;
    }
    lk_lock_release(&m->lock);
    lk_version_retire(old, version);
    lk_version_unref(old);
}

lk_status lk_manifest_append(lk_manifest *m, const lk_edit *edit, lk_version **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_version *version = NULL;
    lk_properties properties = {NULL, 0};
    if (out != NULL) *out = NULL;
    if (m->has_failed) return fail_again(m, err);
    if (m->options.read_only) {
        return lk_fail(err, LK_READONLY, 0, m->dir, 0, 0, 0, "the store was opened to be read");
    }
    LK_TRY(lk_manifest_settle(m, err));
    LK_TRY(lk_version_apply(m->version, edit, m->env, m->dir, m->cache, &version, err));
    if (edit->property_count > 0) {
        LK_TRY(lk_properties_copy(&m->properties, &properties, err));
        LK_TRY(lk_properties_apply(&properties, edit, err));
    }
    lk_manifest_state state = m->state;
    state.number = version->number;
    state.next_file = 1;
    state_apply(&state, edit);
    lk_manifest_saw_file(m, state.next_file - 1); /* numbers that came from elsewhere */
    state.next_file = atomic_load_explicit(&m->next_file, memory_order_relaxed);
    lk_json_writer_clear(&m->line);
    lk_json_write_raw(&m->line, "                 ", LK_MANIFEST_HEAD_BYTES);
    lk_manifest_line_edit(&m->line, edit, &state);
    lk_json_write_raw(&m->line, "\n", 1);
    LK_TRY(lk_json_writer_status(&m->line, err));

    const lk_properties *now = edit->property_count > 0 ? &properties : &m->properties;
    st = is_too_long(m, edit) ? rotate(m, version, now, &state, &m->failure)
                              : append_line(m, &m->failure);
    if (st != LK_OK) {
        m->has_failed = true;
        st = fail_again(m, err);
        goto done;
    }
    if (edit->property_count > 0) {
        lk_properties_free(&m->properties);
        m->properties = properties;
        properties = (lk_properties){NULL, 0};
    }
    publish(m, version, &state, out);
    version = NULL;
done:
    lk_properties_free(&properties);
    lk_version_unref(version);
    return st;
}

/* ---- what holds now ---- */

lk_version *lk_manifest_version(lk_manifest *m)
{
    lk_lock_acquire(&m->lock);
    lk_version *v = m->version;
    lk_version_ref(v);
    lk_lock_release(&m->lock);
    return v;
}

uint64_t lk_manifest_next_file(lk_manifest *m)
{
    return atomic_fetch_add_explicit(&m->next_file, 1, memory_order_relaxed);
}

void lk_manifest_saw_file(lk_manifest *m, uint64_t file)
{
    if (file >= LK_FILE_MAX) return; /* none of ours */
    uint64_t next = atomic_load_explicit(&m->next_file, memory_order_relaxed);
    while (next <= file &&
           !atomic_compare_exchange_weak_explicit(&m->next_file, &next, file + 1,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

static lk_manifest_state state_of(const lk_manifest *m)
{
    lk_lock *lock = (lk_lock *)(uintptr_t)&m->lock; /* reading changes nothing but the lock */
    lk_lock_acquire(lock);
    lk_manifest_state state = m->state;
    lk_lock_release(lock);
    return state;
}

uint64_t lk_manifest_last_seq(const lk_manifest *m) { return state_of(m).last_seq; }
uint64_t lk_manifest_log_retired(const lk_manifest *m) { return state_of(m).log_retired; }
bool lk_manifest_was_clean(const lk_manifest *m) { return m->was_clean; }

void lk_manifest_durable(const lk_manifest *m, uint64_t *out_generation, uint64_t *out_end)
{
    lk_manifest_state state = state_of(m);
    *out_generation = state.durable_generation;
    *out_end = state.durable_end;
}

const char *lk_manifest_property(const lk_manifest *m, const char *name)
{
    bool found;
    lk_lock *lock = (lk_lock *)(uintptr_t)&m->lock;
    lk_lock_acquire(lock);
    size_t i = lk_properties_find(&m->properties, name, &found);
    const char *value = found ? m->properties.items[i].value : NULL;
    lk_lock_release(lock);
    return value;
}

size_t lk_manifest_property_count(const lk_manifest *m) { return m->properties.count; }

void lk_manifest_property_at(const lk_manifest *m, size_t i, const char **name, const char **value)
{
    LK_ASSERT(i < m->properties.count);
    *name = m->properties.items[i].name;
    *value = m->properties.items[i].value;
}

lk_status lk_manifest_copy_state(lk_manifest *m, lk_version **out_version,
                                 lk_properties *out_properties, lk_manifest_state *out_state,
                                 lk_error *err)
{
    *out_version = NULL;
    lk_status st = lk_properties_copy(&m->properties, out_properties, err);
    if (st != LK_OK) return st;
    *out_version = lk_manifest_version(m);
    *out_state = state_of(m);
    out_state->next_file = atomic_load_explicit(&m->next_file, memory_order_relaxed);
    return LK_OK;
}

lk_status lk_manifest_dump(lk_env *env, const char *dir,
                           void (*print)(void *context, const char *line), void *context,
                           lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest *m = NULL;
    lk_manifest_options options = {.read_only = true};
    lk_manifest_scan s = {.data = NULL};
    uint8_t *json;
    size_t len;
    LK_TRY(manifest_new(env, dir, &options, NULL, &m, err));
    LK_TRY(open_file(m, &m->file_number, &m->file, err));
    LK_TRY(lk_manifest_scan_load(&s, m->file, m->file_number, err));
    for (;;) {
        LK_TRY(lk_manifest_scan_next(&s, &json, &len, err));
        if (json == NULL) goto done;
        json[len] = 0;
        print(context, (const char *)s.data + s.line_start);
    }
done:
    lk_manifest_scan_free(&s);
    lk_manifest_close(m);
    return st;
}
