/* manifest_line.c: see manifest_line.h and FORMAT-manifest.md. */
#include "manifest_line.h"

#include <stdlib.h>

#include "check.h"
#include "manifest_table.h"

enum { RANGE_FILES_MAX = 4096 }; /* of one object; a range with more has several */

/* ---- writing ---- */

/* Numbers that are 0 are left out: 0 is what their absence means. */
static void write_state(lk_json_writer *w, const lk_manifest_state *s)
{
    lk_json_field(w, "edit", s->number);
    lk_json_field(w, "next_file", s->next_file);
    if (s->last_seq != 0) lk_json_field(w, "last_seq", s->last_seq);
    if (s->log_retired != 0) lk_json_field(w, "log_retired", s->log_retired);
    if (s->durable_generation != 0) {
        lk_json_name(w, "durable");
        lk_json_open(w, '[');
        lk_json_write_u64(w, s->durable_generation);
        lk_json_write_u64(w, s->durable_end);
        lk_json_close(w, ']');
    }
    if (s->clean) {
        lk_json_name(w, "clean");
        lk_json_write_bool(w, true);
    }
}

static void write_cuts(lk_json_writer *w, const char *name, const lk_edit_cut *cuts, size_t count)
{
    if (count == 0) return;
    lk_json_name(w, name);
    lk_json_open(w, '[');
    for (size_t i = 0; i < count; i++) {
        lk_json_open(w, '{');
        lk_json_field(w, "tree", cuts[i].tree);
        lk_json_field_hex(w, "at", cuts[i].at.data, cuts[i].at.len);
        lk_json_close(w, '}');
    }
    lk_json_close(w, ']');
}

static void write_delete(lk_json_writer *w, const lk_tomb *range)
{
    lk_json_open(w, '{');
    lk_json_field(w, "tree", range->tree);
    lk_json_field_hex(w, "start", range->start.data, range->start.len);
    if (range->stop.data != NULL) {
        lk_json_field_hex(w, "stop", range->stop.data, range->stop.len);
    }
    lk_json_field(w, "seq", range->seq);
    lk_json_close(w, '}');
}

/* Whether a later change of the same edit makes this one void. */
static bool is_changed_again(const lk_edit *e, size_t i)
{
    for (size_t j = i + 1; j < e->property_count; j++) {
        if (strcmp(e->properties[i].name, e->properties[j].name) == 0) return true;
    }
    return false;
}

static void write_properties(lk_json_writer *w, const lk_edit *e)
{
    bool is_open = false;
    for (size_t i = 0; i < e->property_count; i++) {
        if (e->properties[i].value == NULL || is_changed_again(e, i)) continue;
        if (!is_open) {
            lk_json_name(w, "set");
            lk_json_open(w, '{');
            is_open = true;
        }
        lk_json_name_string(w, e->properties[i].name);
        lk_json_write_string(w, e->properties[i].value);
    }
    if (is_open) lk_json_close(w, '}');
    is_open = false;
    for (size_t i = 0; i < e->property_count; i++) {
        if (e->properties[i].value != NULL || is_changed_again(e, i)) continue;
        if (!is_open) {
            lk_json_name(w, "unset");
            lk_json_open(w, '[');
            is_open = true;
        }
        lk_json_write_string(w, e->properties[i].name);
    }
    if (is_open) lk_json_close(w, ']');
}

void lk_manifest_line_edit(lk_json_writer *w, const lk_edit *e, const lk_manifest_state *next)
{
    lk_manifest_state said = {.number = next->number,
                              .next_file = next->next_file,
                              .last_seq = e->last_seq,
                              .log_retired = e->log_retired,
                              .durable_generation = e->durable_generation,
                              .durable_end = e->durable_end,
                              .clean = e->clean};
    lk_json_open(w, '{');
    write_state(w, &said);
    if (e->drop_count > 0) {
        lk_json_name(w, "drop");
        lk_json_open(w, '[');
        for (size_t i = 0; i < e->drop_count; i++) lk_json_write_u64(w, e->drops[i]);
        lk_json_close(w, ']');
    }
    if (e->remove_count > 0) {
        lk_json_name(w, "remove");
        lk_json_open(w, '[');
        for (size_t i = 0; i < e->remove_count; i++) {
            lk_json_open(w, '{');
            lk_json_field(w, "tree", e->removes[i].tree);
            lk_json_field(w, "file", e->removes[i].file);
            lk_json_field_hex(w, "lower", e->removes[i].lower.data, e->removes[i].lower.len);
            lk_json_close(w, '}');
        }
        lk_json_close(w, ']');
    }
    write_cuts(w, "join", e->joins, e->join_count);
    write_cuts(w, "split", e->splits, e->split_count);
    if (e->add_count > 0) {
        lk_json_name(w, "add");
        lk_json_open(w, '[');
        for (size_t i = 0; i < e->add_count; i++) {
            lk_manifest_table_write(w, &e->adds[i].meta, e->adds[i].level, e->adds[i].stamp);
        }
        lk_json_close(w, ']');
    }
    if (e->delete_count > 0) {
        lk_json_name(w, "deleted");
        lk_json_open(w, '[');
        for (size_t i = 0; i < e->delete_count; i++) write_delete(w, &e->deletes[i]);
        lk_json_close(w, ']');
    }
    write_properties(w, e);
    lk_json_close(w, '}');
}

/* ---- a whole state ---- */

typedef struct base_writer {
    lk_json_writer w;
    size_t line_bytes;
    const char *section; /* the list that is open, or NULL */
    char bracket;        /* that closes it */
    lk_manifest_emit *emit;
    void *context;
} base_writer;

static void close_section(base_writer *b)
{
    if (b->section != NULL) lk_json_close(&b->w, b->bracket);
    b->section = NULL;
}

static lk_status emit_line(base_writer *b, lk_error *err)
{
    lk_status st = LK_OK;
    close_section(b);
    lk_json_close(&b->w, '}');
    LK_TRY(lk_json_writer_status(&b->w, err));
    LK_TRY(b->emit(b->context, b->w.data, b->w.len, err));
    lk_json_writer_clear(&b->w);
done:
    return st;
}

/* The next item goes into `section`; a line that is long enough ends before it. */
static lk_status begin_item(base_writer *b, const char *section, bool is_object, lk_error *err)
{
    lk_status st = LK_OK;
    if (b->w.len >= b->line_bytes / 4) {
        LK_TRY(emit_line(b, err));
        lk_json_open(&b->w, '{');
    }
    if (b->section != section) {
        close_section(b);
        b->section = section;
        b->bracket = is_object ? '}' : ']';
        lk_json_name(&b->w, section);
        lk_json_open(&b->w, is_object ? '{' : '[');
    }
done:
    return st;
}

static int by_number(const void *a, const void *b)
{
    const lk_tree_file *x = *(const lk_tree_file *const *)a, *y = *(const lk_tree_file *const *)b;
    return (x->file > y->file) - (x->file < y->file);
}

/* All tables in the order of their numbers, which is also the one that is quickest to read back. */
static lk_status base_tables(base_writer *b, const lk_version *v, lk_error *err)
{
    lk_status st = LK_OK;
    size_t count = 0;
    for (uint32_t i = 0; i < v->tree_count; i++) {
        count += v->trees[i] == NULL ? 0 : v->trees[i]->file_count;
    }
    const lk_tree_file **files = malloc((count + 1) * sizeof *files);
    if (files == NULL) return lk_fail_nomem(err, (count + 1) * sizeof *files);
    size_t n = 0;
    for (uint32_t i = 0; i < v->tree_count; i++) {
        const lk_tree_version *t = v->trees[i];
        for (uint32_t j = 0; t != NULL && j < t->file_count; j++) files[n++] = &t->files[j];
    }
    LK_ASSERT(n == count);
    qsort(files, count, sizeof *files, by_number);
    for (size_t i = 0; i < count; i++) {
        LK_TRY(begin_item(b, "tables", false, err));
        lk_manifest_table_write(&b->w, lk_table_meta_of(files[i]->table), files[i]->level,
                                files[i]->stamp);
    }
done:
    free(files);
    return st;
}

static lk_status open_range(base_writer *b, uint32_t tree, const lk_range *range, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(begin_item(b, "ranges", false, err));
    lk_json_open(&b->w, '{');
    lk_json_field(&b->w, "tree", tree);
    lk_json_field_hex(&b->w, "lower", range->lower.data, range->lower.len);
    lk_json_name(&b->w, "files");
    lk_json_open(&b->w, '[');
done:
    return st;
}

static void close_range(base_writer *b)
{
    lk_json_close(&b->w, ']');
    lk_json_close(&b->w, '}');
}

static lk_status base_range(base_writer *b, uint32_t tree, const lk_range *range, lk_error *err)
{
    lk_status st = LK_OK;
    size_t n = 0;
    LK_TRY(open_range(b, tree, range, err));
    for (uint32_t r = 0; r < range->run_count; r++) {
        for (uint32_t i = 0; i < range->runs[r].count; i++) {
            if (n++ == RANGE_FILES_MAX) {
                close_range(b);
                LK_TRY(open_range(b, tree, range, err));
                n = 1;
            }
            lk_json_write_u64(&b->w, lk_table_meta_of(range->runs[r].tables[i])->file);
        }
    }
    close_range(b);
done:
    return st;
}

/* What is deleted now: whoever reads this has no snapshots, so the newest delete of each key says all. */
static lk_status base_deleted(base_writer *b, const lk_tombs *t, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t i = 0, next; i < t->count; i = next) {
        const lk_tomb_step *step = &t->steps[i];
        uint64_t seq = lk_tombs_newest(t, i + 1, LK_SEQ_MAX);
        for (next = i + 1; next < t->count; next++) {
            if (lk_tombs_newest(t, next + 1, LK_SEQ_MAX) != seq) break;
        }
        if (seq == 0) continue;
        LK_ASSERT(next < t->count);
        lk_tomb range = {.start = {step->key, step->key_len}, .seq = seq, .tree = step->tree};
        const lk_tomb_step *end = &t->steps[next];
        if (end->tree == step->tree) range.stop = (lk_bytes){end->key, end->key_len};
        LK_TRY(begin_item(b, "deleted", false, err));
        write_delete(&b->w, &range);
    }
done:
    return st;
}

lk_status lk_manifest_line_base(const lk_version *v, const lk_properties *properties,
                                const lk_manifest_state *state, uint64_t manifest,
                                size_t line_bytes, lk_manifest_emit *emit, void *context,
                                lk_error *err)
{
    lk_status st = LK_OK;
    base_writer b = {.line_bytes = line_bytes, .emit = emit, .context = context};
    lk_json_writer_init(&b.w, SIZE_MAX / 4);
    lk_json_open(&b.w, '{');
    lk_json_field(&b.w, "format", LK_MANIFEST_FORMAT);
    lk_json_field(&b.w, "manifest", manifest);
    write_state(&b.w, state);
    for (size_t i = 0; i < properties->count; i++) {
        LK_TRY(begin_item(&b, "set", true, err));
        lk_json_name_string(&b.w, properties->items[i].name);
        lk_json_write_string(&b.w, properties->items[i].value);
    }
    LK_TRY(base_tables(&b, v, err));
    for (uint32_t i = 0; i < v->tree_count; i++) {
        const lk_tree_version *t = v->trees[i];
        for (uint32_t j = 0; t != NULL && j < t->range_count; j++) {
            LK_TRY(base_range(&b, i, &t->ranges[j], err));
        }
    }
    for (uint32_t i = 0; i < v->tree_count; i++) {
        const lk_tree_version *t = v->trees[i];
        if (t != NULL && t->tombs != NULL) LK_TRY(base_deleted(&b, t->tombs, err));
    }
    close_section(&b);
    lk_json_name(&b.w, "complete");
    lk_json_write_bool(&b.w, true);
    LK_TRY(emit_line(&b, err));
done:
    lk_json_writer_deinit(&b.w);
    return st;
}

/* ---- reading ---- */

void lk_manifest_line_init(lk_manifest_line *line)
{
    memset(line, 0, sizeof *line);
    lk_edit_init(&line->edit);
}

void lk_manifest_line_deinit(lk_manifest_line *line)
{
    lk_edit_deinit(&line->edit);
    free(line->ranges);
    free(line->files);
    lk_manifest_line_init(line);
}

/* What small objects are read into: cuts, removes, ranges use some of the fields. */
typedef struct place {
    uint32_t tree;
    uint64_t file;
    lk_bytes key; /* "at" or "lower" */
} place;

enum { SEEN_TREE = 1, SEEN_FILE = 2, SEEN_KEY = 4, SEEN_FILES = 8 };

static lk_status read_files(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        if (line->file_count == line->file_capacity) {
            size_t capacity = line->file_capacity < 32 ? 64 : line->file_capacity * 2;
            uint64_t *files = realloc(line->files, capacity * sizeof *files);
            if (files == NULL) return lk_fail_nomem(err, capacity * sizeof *files);
            line->files = files;
            line->file_capacity = capacity;
        }
        if (lk_json_read_u64(r, &line->files[line->file_count])) line->file_count++;
    }
    return LK_OK;
}

/* An object with the members of `wanted` (SEEN_ bits); others are passed over. */
static lk_status read_place(lk_json_reader *r, const char *key_name, uint32_t wanted,
                            lk_manifest_line *line, place *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes name;
    uint32_t seen = 0;
    memset(out, 0, sizeof *out);
    if (!lk_json_enter(r, '{')) return LK_OK;
    while (lk_json_member(r, &name)) {
        if (lk_json_is(name, "tree")) {
            (void)(lk_json_first_time(r, &seen, SEEN_TREE) &&
                   lk_json_read_u32(r, LK_TREE_MAX - 1, &out->tree));
        } else if (lk_json_is(name, key_name)) {
            (void)(lk_json_first_time(r, &seen, SEEN_KEY) && lk_manifest_read_key(r, &out->key));
        } else if ((wanted & SEEN_FILE) != 0 && lk_json_is(name, "file")) {
            (void)(lk_json_first_time(r, &seen, SEEN_FILE) && lk_json_read_u64(r, &out->file));
        } else if ((wanted & SEEN_FILES) != 0 && lk_json_is(name, "files")) {
            if (lk_json_first_time(r, &seen, SEEN_FILES)) LK_TRY(read_files(r, line, err));
        } else {
            (void)lk_json_skip(r);
        }
    }
    if (r->fault == NULL && seen != wanted) (void)lk_json_fault(r, "a member is missing before");
done:
    return st;
}

static lk_status read_cuts(lk_json_reader *r, lk_manifest_line *line, bool is_join, lk_error *err)
{
    lk_status st = LK_OK;
    place p;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        LK_TRY(read_place(r, "at", SEEN_TREE | SEEN_KEY, line, &p, err));
        if (r->fault != NULL) break;
        st = is_join ? lk_edit_join(&line->edit, p.tree, p.key, err)
                     : lk_edit_split(&line->edit, p.tree, p.key, err);
        if (st != LK_OK) goto done;
    }
done:
    return st;
}

static lk_status read_removes(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    place p;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        LK_TRY(read_place(r, "lower", SEEN_TREE | SEEN_KEY | SEEN_FILE, line, &p, err));
        if (r->fault != NULL) break;
        LK_TRY(lk_edit_remove_table(&line->edit, p.tree, p.key, p.file, err));
    }
done:
    return st;
}

static lk_status read_ranges(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    place p;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        size_t first = line->file_count;
        LK_TRY(read_place(r, "lower", SEEN_TREE | SEEN_KEY | SEEN_FILES, line, &p, err));
        if (r->fault != NULL) break;
        if (line->range_count == line->range_capacity) {
            size_t capacity = line->range_capacity < 8 ? 16 : line->range_capacity * 2;
            lk_manifest_range *ranges = realloc(line->ranges, capacity * sizeof *ranges);
            if (ranges == NULL) return lk_fail_nomem(err, capacity * sizeof *ranges);
            line->ranges = ranges;
            line->range_capacity = capacity;
        }
        line->ranges[line->range_count++] = (lk_manifest_range){
            .tree = p.tree, .lower = p.key, .first = first, .count = line->file_count - first};
    }
done:
    return st;
}

static lk_status read_tables(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    uint32_t level;
    uint64_t stamp;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        LK_TRY(lk_manifest_table_read(r, &meta, &level, &stamp, err));
        if (r->fault != NULL) break;
        LK_TRY(lk_edit_add_table(&line->edit, &meta, level, stamp, NULL, err));
    }
done:
    lk_table_meta_deinit(&meta);
    return st;
}

enum { DELETE_TREE = 1, DELETE_START = 2, DELETE_SEQ = 4, DELETE_ALL = 7, DELETE_STOP = 8 };

/* `out`'s keys point into the text. */
static void read_delete(lk_json_reader *r, lk_tomb *out)
{
    lk_bytes name;
    uint32_t seen = 0;
    memset(out, 0, sizeof *out);
    if (!lk_json_enter(r, '{')) return;
    while (lk_json_member(r, &name)) {
        if (lk_json_is(name, "tree")) {
            (void)(lk_json_first_time(r, &seen, DELETE_TREE) &&
                   lk_json_read_u32(r, LK_TREE_MAX - 1, &out->tree));
        } else if (lk_json_is(name, "start")) {
            (void)(lk_json_first_time(r, &seen, DELETE_START) &&
                   lk_manifest_read_key(r, &out->start));
        } else if (lk_json_is(name, "stop")) {
            (void)(lk_json_first_time(r, &seen, DELETE_STOP) &&
                   lk_manifest_read_key(r, &out->stop));
        } else if (lk_json_is(name, "seq")) {
            (void)(lk_json_first_time(r, &seen, DELETE_SEQ) && lk_json_read_u64(r, &out->seq));
        } else {
            (void)lk_json_skip(r);
        }
    }
    if (r->fault != NULL) return;
    if ((seen & DELETE_ALL) != DELETE_ALL) {
        (void)lk_json_fault(r, "a member of a deleted range is missing before");
    } else if (out->seq == 0 || out->seq == LK_SEQ_MAX) {
        (void)lk_json_fault(r, "a range was deleted at a sequence that is never given");
    } else if ((seen & DELETE_STOP) != 0 && lk_key_compare(out->start.data, out->start.len,
                                                           out->stop.data, out->stop.len) >= 0) {
        (void)lk_json_fault(r, "a deleted range ends before it starts");
    }
}

static lk_status read_deletes(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    lk_tomb range;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        read_delete(r, &range);
        if (r->fault != NULL) break;
        LK_TRY(lk_edit_delete_range(&line->edit, &range, err));
    }
done:
    return st;
}

/* As a C string, in the text; NULL and a fault when it is none of this length. */
static const char *read_text(lk_json_reader *r, size_t min, size_t max)
{
    lk_bytes text;
    if (!lk_json_read_string(r, &text)) return NULL;
    if (text.len < min || text.len > max || strlen((const char *)text.data) != text.len) {
        (void)lk_json_fault(r, "a property's name or value is too short, too long or has a zero");
        return NULL;
    }
    return (const char *)text.data;
}

static lk_status read_set(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes name;
    if (!lk_json_enter(r, '{')) return LK_OK;
    while (lk_json_member(r, &name)) {
        const char *value = read_text(r, 0, LK_PROPERTY_VALUE_MAX);
        if (value == NULL) break;
        if (name.len == 0 || name.len > LK_PROPERTY_NAME_MAX ||
            strlen((const char *)name.data) != name.len) {
            (void)lk_json_fault(r, "the name before is not one of a property");
            break;
        }
        LK_TRY(lk_edit_set(&line->edit, (const char *)name.data, value, err));
    }
done:
    return st;
}

static lk_status read_unset(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        const char *name = read_text(r, 1, LK_PROPERTY_NAME_MAX);
        if (name == NULL) break;
        LK_TRY(lk_edit_set(&line->edit, name, NULL, err));
    }
done:
    return st;
}

static lk_status read_drops(lk_json_reader *r, lk_manifest_line *line, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t tree;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        if (!lk_json_read_u32(r, LK_TREE_MAX - 1, &tree)) break;
        LK_TRY(lk_edit_drop(&line->edit, tree, err));
    }
done:
    return st;
}

static void read_durable(lk_json_reader *r, lk_edit *e)
{
    if (!lk_json_enter(r, '[')) return;
    uint64_t *parts[] = {&e->durable_generation, &e->durable_end};
    for (size_t i = 0; i < 2; i++) {
        if (!lk_json_element(r)) {
            (void)lk_json_fault(r, "one of two numbers is missing");
            return;
        }
        if (!lk_json_read_u64(r, parts[i])) return;
    }
    if (lk_json_element(r)) (void)lk_json_fault(r, "more than two numbers");
}

enum {
    MEMBER_FORMAT,
    MEMBER_MANIFEST,
    MEMBER_EDIT,
    MEMBER_NEXT_FILE,
    MEMBER_LAST_SEQ,
    MEMBER_LOG_RETIRED,
    MEMBER_DURABLE,
    MEMBER_CLEAN,
    MEMBER_COMPLETE,
    MEMBER_DROP,
    MEMBER_REMOVE,
    MEMBER_JOIN,
    MEMBER_SPLIT,
    MEMBER_ADD,
    MEMBER_SET,
    MEMBER_UNSET,
    MEMBER_TABLES,
    MEMBER_RANGES,
    MEMBER_DELETED,
    MEMBERS,
};

static const struct {
    const char *name;
    uint32_t kinds;
} MEMBER_NAMES[MEMBERS] = {
    [MEMBER_FORMAT] = {"format", LK_LINE_FORMAT},
    [MEMBER_MANIFEST] = {"manifest", 0},
    [MEMBER_EDIT] = {"edit", LK_LINE_EDIT},
    [MEMBER_NEXT_FILE] = {"next_file", 0},
    [MEMBER_LAST_SEQ] = {"last_seq", 0},
    [MEMBER_LOG_RETIRED] = {"log_retired", 0},
    [MEMBER_DURABLE] = {"durable", 0},
    [MEMBER_CLEAN] = {"clean", 0},
    [MEMBER_COMPLETE] = {"complete", LK_LINE_COMPLETE},
    [MEMBER_DROP] = {"drop", LK_LINE_CHANGE},
    [MEMBER_REMOVE] = {"remove", LK_LINE_CHANGE},
    [MEMBER_JOIN] = {"join", LK_LINE_CHANGE},
    [MEMBER_SPLIT] = {"split", LK_LINE_CHANGE},
    [MEMBER_ADD] = {"add", LK_LINE_CHANGE},
    [MEMBER_SET] = {"set", 0},
    [MEMBER_UNSET] = {"unset", LK_LINE_CHANGE},
    [MEMBER_TABLES] = {"tables", LK_LINE_BASE},
    [MEMBER_RANGES] = {"ranges", LK_LINE_BASE},
    [MEMBER_DELETED] = {"deleted", 0},
};

static lk_status read_member(lk_json_reader *r, int member, lk_manifest_line *line, lk_error *err)
{
    bool flag;
    switch (member) {
    case MEMBER_MANIFEST:
        (void)lk_json_read_u64(r, &line->manifest);
        return LK_OK;
    case MEMBER_EDIT:
        (void)lk_json_read_u64(r, &line->state.number);
        return LK_OK;
    case MEMBER_NEXT_FILE:
        (void)lk_json_read_u64(r, &line->state.next_file);
        return LK_OK;
    case MEMBER_LAST_SEQ:
        (void)lk_json_read_u64(r, &line->edit.last_seq);
        return LK_OK;
    case MEMBER_LOG_RETIRED:
        (void)lk_json_read_u64(r, &line->edit.log_retired);
        return LK_OK;
    case MEMBER_DURABLE:
        read_durable(r, &line->edit);
        return LK_OK;
    case MEMBER_CLEAN:
        (void)lk_json_read_bool(r, &line->edit.clean);
        return LK_OK;
    case MEMBER_COMPLETE:
        if (lk_json_read_bool(r, &flag) && !flag) (void)lk_json_fault(r, "complete, but false");
        return LK_OK;
    case MEMBER_DROP:
        return read_drops(r, line, err);
    case MEMBER_REMOVE:
        return read_removes(r, line, err);
    case MEMBER_JOIN:
    case MEMBER_SPLIT:
        return read_cuts(r, line, member == MEMBER_JOIN, err);
    case MEMBER_ADD:
    case MEMBER_TABLES:
        return read_tables(r, line, err);
    case MEMBER_SET:
        return read_set(r, line, err);
    case MEMBER_UNSET:
        return read_unset(r, line, err);
    case MEMBER_RANGES:
        return read_ranges(r, line, err);
    case MEMBER_DELETED:
        return read_deletes(r, line, err);
    default:
        (void)lk_json_skip(r);
        return LK_OK;
    }
}

/* The format must be the first member: what follows may look otherwise in another format. */
static lk_status read_format(lk_json_reader *r, const char *path, uint64_t offset, lk_error *err)
{
    uint64_t format;
    if (!lk_json_read_u64(r, &format) || format == LK_MANIFEST_FORMAT) return LK_OK;
    return lk_fail(err, LK_UNSUPPORTED, 0, path, offset, LK_MANIFEST_FORMAT, format,
                   "the manifest has format %llu; this version of lsmkit reads format %u",
                   (unsigned long long)format, LK_MANIFEST_FORMAT);
}

lk_status lk_manifest_line_read(void *text, size_t len, const char *path, uint64_t offset,
                                lk_manifest_line *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_json_reader r;
    lk_bytes name;
    uint32_t seen = 0;
    lk_manifest_line_init(out);
    lk_json_reader_init(&r, text, len);
    (void)lk_json_enter(&r, '{');
    for (bool first = true; lk_json_member(&r, &name); first = false) {
        int member = 0;
        while (member < MEMBERS && !lk_json_is(name, MEMBER_NAMES[member].name)) member++;
        if (member < MEMBERS && !lk_json_first_time(&r, &seen, 1u << member)) break;
        if (member < MEMBERS) out->kinds |= MEMBER_NAMES[member].kinds;
        if (member != MEMBER_FORMAT) {
            LK_TRY(read_member(&r, member, out, err));
        } else if (first) {
            LK_TRY(read_format(&r, path, offset, err));
        } else {
            (void)lk_json_fault(&r, "the format is not the first member");
        }
    }
    if (!lk_json_end(&r)) {
        st = lk_fail_corrupt(err, path, offset + r.fault_pos, 0, 0, "a manifest line: %s", r.fault);
    }
done:
    if (st != LK_OK) lk_manifest_line_deinit(out);
    return st;
}
