/* repair.c: see repair.h. What is whole of single files is salvage.c's to say; this file decides what
 * becomes of it.
 *
 * Order of things without a manifest: sequences are all there is. Tables that share keys and whose
 * sequences lie apart are laid above one another; where they do not, all tables of the tree are merged
 * by (key, sequence), which gives the newest row of each key whatever their history.
 */
#include "repair.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "destroy.h"
#include "manifest_file.h"
#include "recover.h"
#include "repair_trees.h"
#include "salvage.h"
#include "salvage_blob.h"
#include "segment.h"
#include "store.h"

typedef struct found_table {
    lk_table_meta meta;
} found_table;

typedef struct repair {
    lk_env *env;
    const char *dir;
    void (*note)(void *context, const char *line);
    void *context;
    lk_repair_report *report;
    lk_names names;
    lk_manifest *manifest;   /* NULL: there is none to go by */
    lk_version *base;        /* what the new version is made from */
    lk_salvaged_lines lines; /* of all manifests, when there is none */
    lk_properties properties;
    lk_manifest_state state;
    uint64_t next_file;
    lk_table_options table;
    uint64_t table_bytes;
    lk_edit edit;
    found_table *found; /* tables to be laid out by their sequences */
    size_t found_count, found_capacity;
    /* the table that is being written */
    lk_table_writer *writer;
    uint64_t range_stamp;
    const lk_tree_version *clip; /* rows whose range does not hold `clip_file` are dead */
    uint64_t clip_file;
    uint64_t log_max;  /* greatest generation seen */
    bool log_consumed; /* the log is in tables now */
    lk_salvaged_values values;
    lk_version *version; /* the new one */
    uint64_t *aside;     /* tables that are not used any more */
    size_t aside_count, aside_capacity;
} repair;

__attribute__((format(printf, 2, 3))) static void say(const repair *r, const char *format, ...)
{
    char line[LK_PATH_MAX + 256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    r->note(r->context, line);
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static lk_status found_add(repair *r, lk_table_meta *meta, lk_error *err)
{
    lk_status st =
        lk_array_grow(&r->found, r->found_count, &r->found_capacity, sizeof *r->found, err);
    if (st != LK_OK) return st;
    r->found[r->found_count++] = (found_table){.meta = *meta};
    memset(meta, 0, sizeof *meta);
    return LK_OK;
}

static lk_status aside_add(repair *r, uint64_t file, lk_error *err)
{
    lk_status st = lk_array_grow(&r->aside, r->aside_count, &r->aside_capacity, sizeof file, err);
    if (st == LK_OK) r->aside[r->aside_count++] = file;
    return st;
}

/* ---- writing rows ---- */

static lk_status writer_finish(repair *r, lk_table_meta *out, lk_error *err)
{
    memset(out, 0, sizeof *out);
    if (r->writer == NULL) return LK_OK;
    lk_status st = lk_table_writer_finish(r->writer, out, err);
    lk_table_writer_free(r->writer);
    r->writer = NULL;
    return st;
}

/* A row that refers to a value gets the value, which goes into a file that is new. */
static lk_status row_write(repair *r, uint32_t tree, const lk_row *salvaged, lk_error *err)
{
    lk_status st = LK_OK;
    lk_row copy = *salvaged, *row = &copy;
    bool found;
    LK_TRY(lk_salvaged_values_take(&r->values, row, &found, err));
    if (!found) {
        r->report->values_lost++;
        return LK_OK;
    }
    if (r->writer == NULL) {
        LK_TRY(
            lk_table_writer_new(r->env, r->dir, r->next_file++, tree, &r->table, &r->writer, err));
    }
    LK_TRY(lk_table_writer_add(r->writer, row, 1, err));
done:
    return st;
}

static lk_status salvaged_row(void *context, uint32_t tree, const lk_row *row, lk_error *err)
{
    repair *r = context;
    if (r->clip != NULL) {
        const lk_range *range =
            &r->clip->ranges[lk_tree_version_range(r->clip, row->key, row->key_len)];
        bool holds = false;
        for (uint32_t i = 0; i < range->run_count && !holds; i++) {
            lk_table *t = lk_run_table(&range->runs[i], row->key, row->key_len);
            holds = t != NULL && lk_table_meta_of(t)->file == r->clip_file;
        }
        if (!holds) return LK_OK;
    }
    return row_write(r, tree, row, err);
}

/* A new table of what is whole of a damaged one; `out->file` 0: nothing is. */
static lk_status table_salvage(repair *r, uint64_t file, const lk_table_meta *meta,
                               lk_table_meta *out, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    lk_salvage_counts counts;
    memset(out, 0, sizeof *out);
    lk_table_path(r->dir, file, path, sizeof path);
    LK_TRY(lk_salvage_table(r->env, path, meta, salvaged_row, r, &counts, err));
    LK_TRY(writer_finish(r, out, err));
    r->report->rows_kept += counts.rows;
    r->report->blocks_lost += counts.blocks_lost;
    if (out->file != 0) {
        r->report->salvaged++;
        say(r,
            "%06" PRIu64 ".sst: %" PRIu64 " rows of %" PRIu64 " whole blocks kept, %" PRIu64
            " blocks lost",
            file, counts.rows, counts.blocks, counts.blocks_lost);
    } else {
        r->report->lost++;
        say(r, "%06" PRIu64 ".sst: nothing in it could be proved", file);
    }
    LK_TRY(aside_add(r, file, err));
done:
    lk_table_writer_free(r->writer);
    r->writer = NULL;
    return st;
}

/* ---- tables of a version ---- */

static lk_status version_table_replace(repair *r, const lk_tree_version *t, const lk_tree_file *f,
                                       bool is_there, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta fresh = {0};
    if (is_there) {
        r->clip = t;
        r->clip_file = f->file;
        st = table_salvage(r, f->file, lk_table_meta_of(f->table), &fresh, err);
        r->clip = NULL;
        if (st != LK_OK) goto done;
    } else {
        r->report->lost++;
        say(r, "%06" PRIu64 ".sst: is missing", f->file);
    }
    for (uint32_t i = 0; i < t->range_count; i++) {
        for (uint32_t j = 0; j < t->ranges[i].run_count; j++) {
            const lk_run *run = &t->ranges[i].runs[j];
            for (uint32_t k = 0; k < run->count; k++) {
                if (lk_table_meta_of(run->tables[k])->file != f->file) continue;
                LK_TRY(lk_edit_remove_table(&r->edit, t->tree, t->ranges[i].lower, f->file, err));
            }
        }
    }
    if (fresh.file != 0) {
        fresh.written = lk_table_meta_of(f->table)->written;
        LK_TRY(lk_edit_add_table(&r->edit, &fresh, f->level, f->stamp, NULL, err));
    }
done:
    lk_table_meta_deinit(&fresh);
    return st;
}

static lk_status version_check(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t tree = 0; tree < r->base->tree_count; tree++) {
        const lk_tree_version *t = r->base->trees[tree];
        for (uint32_t i = 0; t != NULL && i < t->file_count; i++) {
            lk_table_report report;
            lk_error why;
            lk_status table = lk_table_verify(t->files[i].table, &report, &why);
            if (table == LK_OK) {
                bool whole;
                const lk_table_meta *meta = lk_table_meta_of(t->files[i].table);
                LK_TRY(lk_salvaged_values_check(&r->values, meta, &whole, &why, err));
                if (whole) continue;
                table = LK_CORRUPT;
            }
            if (table == LK_NOMEM) {
                if (err != NULL) *err = why;
                return table;
            }
            say(r, "%06" PRIu64 ".sst: %s", t->files[i].file, why.message);
            r->report->changed = true;
            LK_TRY(version_table_replace(r, t, &t->files[i], table != LK_NOT_FOUND, err));
        }
    }
done:
    return st;
}

/* ---- the log ---- */

/* Ranges that were deleted go into the version, as a flush brings them there. */
static lk_status range_take(repair *r, const lk_record *rec, uint64_t seq, lk_error *err)
{
    bool is_open = rec->value_len == 0; /* to the end of the tree */
    lk_tomb range = {.start = {rec->key, rec->key_len},
                     .stop = {is_open ? NULL : rec->value, rec->value_len},
                     .seq = seq,
                     .tree = rec->tree};
    r->state.last_seq = larger(r->state.last_seq, seq);
    return lk_edit_delete_range(&r->edit, &range, err);
}

static lk_status log_table(repair *r, const lk_salvaged_log *log, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    uint32_t tree = UINT32_MAX;
    for (size_t i = 0; i < log->count; i++) {
        lk_record rec = lk_record_at(log->records[i].at);
        if (rec.tree != tree && r->writer != NULL) {
            LK_TRY(writer_finish(r, &meta, err));
            LK_TRY(found_add(r, &meta, err));
        }
        tree = rec.tree;
        if (rec.kind == LK_KIND_DELETE_RANGE) {
            LK_TRY(range_take(r, &rec, log->records[i].seq, err));
            continue;
        }
        lk_row row = {.key = rec.key,
                      .value = rec.value,
                      .key_len = (uint32_t)rec.key_len,
                      .value_len = (uint32_t)rec.value_len,
                      .seq = log->records[i].seq,
                      .hash = lk_hash_key(rec.tree, rec.key, rec.key_len),
                      .kind = rec.kind};
        LK_TRY(row_write(r, tree, &row, err));
    }
    if (r->writer != NULL) {
        LK_TRY(writer_finish(r, &meta, err));
        LK_TRY(found_add(r, &meta, err));
    }
done:
    lk_table_meta_deinit(&meta);
    lk_table_writer_free(r->writer);
    r->writer = NULL;
    return st;
}

/* Every whole frame of the log that no edit is known to have retired becomes a row of a table. */
static lk_status log_take(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    lk_salvaged_log log = {0};
    for (size_t i = 0; i < r->names.count; i++) {
        uint64_t generation;
        char path[LK_PATH_MAX];
        if (lk_file_kind_of(r->names.names[i], &generation) != LK_FILE_LOG) continue;
        r->log_max = larger(r->log_max, generation);
        if (generation <= r->state.log_retired) continue;
        lk_segment_path(r->dir, generation, path, sizeof path);
        LK_TRY(lk_salvage_log(r->env, path, generation, &log, err));
        if (log.count > 0 || log.bytes_lost > 0) {
            say(r, "%06" PRIu64 ".log: %zu records kept, %" PRIu64 " bytes lost", generation,
                log.count, log.bytes_lost);
        }
        r->report->records += log.count;
        r->report->log_lost += log.bytes_lost;
        LK_TRY(log_table(r, &log, err));
        lk_salvaged_log_deinit(r->env, &log);
    }
    r->log_consumed = true;
done:
    lk_salvaged_log_deinit(r->env, &log);
    return st;
}

/* With a manifest: recovery's verdict. What it reads stays as it is. */
static lk_status log_check(repair *r, bool *out_good, lk_error *err)
{
    lk_recovery recovery;
    lk_error why;
    lk_status st = lk_recover(r->env, r->dir, r->manifest, false, true, &recovery, &why);
    *out_good = st == LK_OK;
    if (st == LK_OK) lk_recovery_deinit(&recovery);
    if (st == LK_CORRUPT || st == LK_UNSUPPORTED || st == LK_NOT_FOUND) {
        say(r, "%s", why.message);
        return LK_OK;
    }
    if (st != LK_OK && err != NULL) *err = why;
    return st;
}

/* ---- laying tables out by their sequences ---- */

static int by_age(const void *a, const void *b)
{
    const found_table *x = a, *y = b;
    if (x->meta.tree != y->meta.tree) return x->meta.tree < y->meta.tree ? -1 : 1;
    if (x->meta.seq_max != y->meta.seq_max) return x->meta.seq_max < y->meta.seq_max ? -1 : 1;
    return (x->meta.file > y->meta.file) - (x->meta.file < y->meta.file);
}

static bool share_keys(const lk_table_meta *a, const lk_table_meta *b)
{
    return lk_key_compare(a->min_key, a->min_len, b->max_key, b->max_len) <= 0 &&
           lk_key_compare(b->min_key, b->min_len, a->max_key, a->max_len) <= 0;
}

static bool seqs_meet(const lk_table_meta *a, const lk_table_meta *b)
{
    return a->seq_min <= b->seq_max && b->seq_min <= a->seq_max;
}

typedef struct merge_source {
    lk_table *table;
    lk_block *block;
    uint32_t block_index, row;
} merge_source;

static lk_status source_load(merge_source *s, lk_error *err)
{
    lk_block_unref(s->block);
    s->block = NULL;
    s->row = 0;
    if (s->block_index == lk_table_block_count(s->table)) return LK_OK;
    return lk_table_block(s->table, s->block_index, false, &s->block, err);
}

static bool source_before(const merge_source *a, const merge_source *b)
{
    lk_bytes x = lk_block_key(a->block, a->row), y = lk_block_key(b->block, b->row);
    int c = lk_key_compare(x.data, x.len, y.data, y.len);
    if (c != 0) return c < 0;
    uint64_t p = lk_block_seq(a->block, a->row), q = lk_block_seq(b->block, b->row);
    if (p != q) return p > q;
    return lk_table_meta_of(a->table)->file > lk_table_meta_of(b->table)->file;
}

typedef struct last_row {
    uint8_t key[LK_KEY_BYTES_MAX];
    size_t len;
    uint64_t seq;
    bool any;
} last_row;

static lk_status merge_row(repair *r, uint32_t tree, const merge_source *s, last_row *last,
                           lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    lk_bytes key = lk_block_key(s->block, s->row), value = lk_block_value(s->block, s->row);
    uint64_t seq = lk_block_seq(s->block, s->row);
    bool same = last->any && lk_bytes_equal(last->key, last->len, key.data, key.len);
    if (same && seq == last->seq) return LK_OK; /* one row in two tables */
    if (!same && r->writer != NULL && lk_table_writer_bytes(r->writer) >= r->table_bytes) {
        LK_TRY(writer_finish(r, &meta, err));
        LK_TRY(lk_edit_add_table(&r->edit, &meta, 0, r->range_stamp, NULL, err));
    }
    lk_row row = {.key = key.data,
                  .value = value.data,
                  .key_len = (uint32_t)key.len,
                  .value_len = (uint32_t)value.len,
                  .seq = seq,
                  .hash = lk_hash_key(tree, key.data, key.len),
                  .kind = lk_block_kind(s->block, s->row)};
    LK_TRY(row_write(r, tree, &row, err));
    if (key.len > 0) memcpy(last->key, key.data, key.len);
    last->len = key.len;
    last->seq = seq;
    last->any = true;
done:
    lk_table_meta_deinit(&meta);
    return st;
}

/* All rows of some tables of one tree, each once, into one run. */
static lk_status tree_merge(repair *r, found_table *tables, size_t count, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    uint32_t tree = tables[0].meta.tree;
    merge_source *sources = calloc(count, sizeof *sources);
    last_row *last = calloc(1, sizeof *last);
    if (sources == NULL || last == NULL) {
        st = lk_fail_nomem(err, count * sizeof *sources + sizeof *last);
        goto done;
    }
    r->range_stamp = r->next_file++;
    for (size_t i = 0; i < count; i++) {
        LK_TRY(lk_table_new(r->env, r->dir, &tables[i].meta, NULL, &sources[i].table, err));
        LK_TRY(lk_table_load(sources[i].table, err));
        LK_TRY(source_load(&sources[i], err));
        LK_TRY(aside_add(r, tables[i].meta.file, err));
    }
    for (;;) {
        merge_source *least = NULL;
        for (size_t i = 0; i < count; i++) {
            if (sources[i].block == NULL) continue;
            if (least == NULL || source_before(&sources[i], least)) least = &sources[i];
        }
        if (least == NULL) break;
        LK_TRY(merge_row(r, tree, least, last, err));
        if (++least->row == least->block->rows) {
            least->block_index++;
            LK_TRY(source_load(least, err));
        }
    }
    LK_TRY(writer_finish(r, &meta, err));
    LK_TRY(lk_edit_add_table(&r->edit, &meta, 0, r->range_stamp, NULL, err));
done:
    for (size_t i = 0; sources != NULL && i < count; i++) {
        lk_block_unref(sources[i].block);
        lk_table_unref(sources[i].table);
    }
    lk_table_writer_free(r->writer);
    r->writer = NULL;
    lk_table_meta_deinit(&meta);
    free(sources);
    free(last);
    return st;
}

/* Tables of one tree, the oldest first, each in the run above all older ones that share its keys. */
static lk_status tree_stack(repair *r, found_table *tables, size_t count, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t *layers = calloc(count, sizeof *layers), most = 0;
    if (layers == NULL) return lk_fail_nomem(err, count * sizeof *layers);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (share_keys(&tables[i].meta, &tables[j].meta) && layers[i] <= layers[j]) {
                layers[i] = layers[j] + 1;
            }
        }
        if (layers[i] > most) most = layers[i];
    }
    uint64_t stamp = r->next_file;
    r->next_file += most + 1;
    for (size_t i = 0; i < count; i++) {
        LK_TRY(lk_edit_add_table(&r->edit, &tables[i].meta, 0, stamp + layers[i], NULL, err));
    }
done:
    free(layers);
    return st;
}

static lk_status found_lay(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    if (r->found_count == 0) return LK_OK;
    qsort(r->found, r->found_count, sizeof *r->found, by_age);
    for (size_t i = 0, end; i < r->found_count; i = end) {
        bool meet = false;
        for (end = i; end < r->found_count && r->found[end].meta.tree == r->found[i].meta.tree;
             end++) {
            r->state.last_seq = larger(r->state.last_seq, r->found[end].meta.seq_max);
            for (size_t j = i; j < end && !meet; j++) {
                meet = share_keys(&r->found[j].meta, &r->found[end].meta) &&
                       seqs_meet(&r->found[j].meta, &r->found[end].meta);
            }
        }
        if (meet) {
            LK_TRY(tree_merge(r, &r->found[i], end - i, err));
        } else {
            LK_TRY(tree_stack(r, &r->found[i], end - i, err));
        }
    }
done:
    return st;
}

/* ---- without a manifest ---- */

static lk_status tables_find(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    lk_table *table = NULL;
    for (size_t i = 0; i < r->names.count; i++) {
        uint64_t file;
        char path[LK_PATH_MAX];
        lk_table_report report;
        lk_error why;
        if (lk_file_kind_of(r->names.names[i], &file) != LK_FILE_TABLE) continue;
        lk_table_path(r->dir, file, path, sizeof path);
        bool whole = lk_table_meta_read(r->env, path, &meta, NULL) == LK_OK && meta.file == file;
        if (whole) {
            LK_TRY(lk_table_new(r->env, r->dir, &meta, NULL, &table, err));
            whole = lk_table_verify(table, &report, NULL) == LK_OK;
            if (whole) LK_TRY(lk_salvaged_values_check(&r->values, &meta, &whole, &why, err));
        }
        if (!whole) {
            lk_table_meta_deinit(&meta);
            LK_TRY(table_salvage(r, file, lk_salvaged_table(&r->lines, file), &meta, err));
        }
        if (meta.file != 0) LK_TRY(found_add(r, &meta, err));
        lk_table_unref(table);
        table = NULL;
    }
done:
    lk_table_unref(table);
    lk_table_meta_deinit(&meta);
    return st;
}

static void tree_named(void *context, uint32_t tree, const char *name)
{
    say(context, "keyspace %" PRIu32 ": its name and options are lost, it is \"%s\" now", tree,
        name);
}

static lk_status rebuild(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    r->report->rebuilt = r->report->changed = true;
    say(r, "no manifest can be gone by: the store is put together from its tables and its log, and "
           "older values may have come back");
    for (size_t i = 0; i < r->names.count; i++) {
        uint64_t number;
        char path[LK_PATH_MAX];
        if (lk_file_kind_of(r->names.names[i], &number) != LK_FILE_MANIFEST) continue;
        LK_TRY(lk_path_join(r->dir, r->names.names[i], path, err));
        LK_TRY(lk_salvage_manifest(r->env, path, number, &r->lines, err));
    }
    r->base = lk_version_empty();
    if (r->base == NULL) return lk_fail_nomem(err, sizeof *r->base);
    LK_TRY(lk_properties_copy(&r->lines.properties, &r->properties, err));
    r->state.log_retired = r->lines.log_retired;
    r->state.last_seq = r->lines.last_seq;
    r->next_file = larger(r->next_file, r->lines.next_file);
    LK_TRY(tables_find(r, err));
    LK_TRY(log_take(r, err));
    LK_TRY(found_lay(r, err));
    LK_TRY(lk_repair_name_trees(&r->properties, &r->edit, tree_named, r, err));
    lk_repair_drop_trees(&r->properties, &r->edit);
done:
    return st;
}

/* ---- with one ---- */

/* Newer than what the manifest knows: it has lost its last edits, and is not to be gone by. */
static bool is_behind(const repair *r, const lk_manifest *m)
{
    bool behind = false;
    for (size_t i = 0; i < r->names.count && !behind; i++) {
        lk_table_meta meta;
        char path[LK_PATH_MAX];
        if (lk_file_kind_of(r->names.names[i], NULL) != LK_FILE_TABLE) continue;
        if (lk_path_join(r->dir, r->names.names[i], path, NULL) != LK_OK) continue;
        if (lk_table_meta_read(r->env, path, &meta, NULL) != LK_OK) continue;
        behind = meta.seq_max > lk_manifest_last_seq(m);
        lk_table_meta_deinit(&meta);
    }
    return behind;
}

/* The manifest that CURRENT names or, where CURRENT is damaged, the newest that is whole. */
static lk_status manifest_find(repair *r, lk_error *err)
{
    lk_manifest_options o = {.read_only = true};
    lk_error why;
    lk_status st = lk_manifest_open(r->env, r->dir, &o, NULL, &r->manifest, &why);
    if (st == LK_OK || st == LK_NOMEM || st == LK_IO) goto done;
    say(r, "CURRENT: %s", why.message);
    r->report->changed = true;
    for (size_t i = r->names.count; i-- > 0 && st != LK_OK;) {
        uint64_t number;
        if (lk_file_kind_of(r->names.names[i], &number) != LK_FILE_MANIFEST) continue;
        LK_TRY(lk_manifest_write_current(r->env, r->dir, number, &why));
        st = lk_manifest_open(r->env, r->dir, &o, NULL, &r->manifest, &why);
        if (st == LK_OK) say(r, "CURRENT: names %s again", r->names.names[i]);
    }
    if (st == LK_CORRUPT || st == LK_NOT_FOUND || st == LK_UNSUPPORTED) st = LK_OK;
done:
    if (st != LK_OK && err != NULL) *err = why;
    return st;
}

static lk_status mend(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    bool good;
    LK_TRY(log_check(r, &good, err));
    LK_TRY(lk_manifest_copy_state(r->manifest, &r->base, &r->properties, &r->state, err));
    r->next_file = larger(r->next_file, r->state.next_file);
    LK_TRY(version_check(r, err));
    if (good) goto done;
    r->report->changed = true;
    LK_TRY(log_take(r, err));
    LK_TRY(found_lay(r, err));
    lk_repair_drop_trees(&r->properties, &r->edit);
done:
    return st;
}

/* ---- the end ---- */

static lk_status publish(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest_out out = {.file = NULL};
    LK_TRY(lk_env_sync_dir(r->env, r->dir, err));
    if (r->log_consumed) {
        r->state.log_retired = larger(r->state.log_retired, r->log_max);
        r->state.durable_generation = r->state.durable_end = 0;
    }
    LK_TRY(lk_version_apply(r->base, &r->edit, r->env, r->dir, NULL, &r->version, err));
    const lk_version *version = r->version;
    r->state.number = version->number;
    uint64_t number = r->next_file++;
    r->state.next_file = r->next_file;
    LK_TRY(lk_manifest_write_file(r->env, r->dir, 1u << 20, number, version, &r->properties,
                                  &r->state, &out, err));
    LK_TRY(lk_manifest_write_current(r->env, r->dir, number, err));
    for (uint32_t t = 0; t < version->tree_count; t++) {
        if (version->trees[t] != NULL) r->report->tables += version->trees[t]->file_count;
    }
done:
    lk_file_close(out.file);
    return st;
}

static bool is_aside(const repair *r, lk_file_kind kind, uint64_t number)
{
    if (kind == LK_FILE_MANIFEST) return true;
    if (kind == LK_FILE_LOG) return r->log_consumed;
    if (kind == LK_FILE_BLOB) return !lk_version_uses_blob(r->version, number);
    for (size_t i = 0; kind == LK_FILE_TABLE && i < r->aside_count; i++) {
        if (r->aside[i] == number) return true;
    }
    return false;
}

/* Of the files that were there at the beginning. */
static lk_status move_aside(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    char lost[LK_PATH_MAX], from[LK_PATH_MAX], to[LK_PATH_MAX];
    LK_TRY(lk_path_join(r->dir, LK_LOST_DIR, lost, err));
    for (size_t i = 0; i < r->names.count; i++) {
        uint64_t number;
        lk_file_kind kind = lk_file_kind_of(r->names.names[i], &number);
        if (!is_aside(r, kind, number)) continue;
        if (r->report->moved == 0) LK_TRY(lk_env_mkdir(r->env, lost, NULL, err));
        LK_TRY(lk_path_join(r->dir, r->names.names[i], from, err));
        LK_TRY(lk_path_join(lost, r->names.names[i], to, err));
        LK_TRY(lk_env_rename(r->env, from, to, err));
        r->report->moved++;
    }
    if (r->report->values_lost > 0) {
        say(r, "%" PRIu64 " rows are lost because their values are", r->report->values_lost);
    }
    if (r->report->moved > 0) {
        LK_TRY(lk_env_sync_dir(r->env, lost, err));
        LK_TRY(lk_env_sync_dir(r->env, r->dir, err));
        say(r, "%" PRIu64 " files that are not used any more are in %s", r->report->moved, lost);
    }
done:
    return st;
}

static lk_status begin(repair *r, lk_lock_file **out_lock, lk_error *err)
{
    lk_status st = LK_OK;
    bool exists, is_dir = false, ours = false;
    LK_TRY(lk_env_exists(r->env, r->dir, &exists, &is_dir, err));
    if (exists && is_dir) {
        LK_TRY(lk_env_list(r->env, r->dir, &r->names, err));
        for (size_t i = 0; i < r->names.count && !ours; i++) {
            LK_TRY(lk_file_is_ours(r->env, r->dir, r->names.names[i], &ours, err));
        }
    }
    if (!ours) {
        st = lk_fail(err, LK_NOT_FOUND, 0, r->dir, 0, 0, 0, "%s: there is no store", r->dir);
        goto done;
    }
    LK_TRY(lk_dir_lock(r->env, r->dir, out_lock, err));
    LK_TRY(lk_readers_end(r->env, r->dir, err));
    lk_names_free(&r->names);
    LK_TRY(lk_env_list(r->env, r->dir, &r->names, err));
    for (size_t i = 0; i < r->names.count; i++) {
        uint64_t number;
        lk_file_kind kind = lk_file_kind_of(r->names.names[i], &number);
        if (kind == LK_FILE_TABLE || kind == LK_FILE_BLOB || kind == LK_FILE_MANIFEST) {
            r->next_file = larger(r->next_file, number + 1);
        }
    }
done:
    return st;
}

static lk_status run(repair *r, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(manifest_find(r, err));
    if (r->manifest != NULL && is_behind(r, r->manifest)) {
        say(r, "the manifest has lost its last edits: there are newer tables");
        lk_manifest_close(r->manifest);
        r->manifest = NULL;
    }
    if (r->manifest != NULL) {
        LK_TRY(mend(r, err));
    } else {
        LK_TRY(rebuild(r, err));
    }
    if (!r->report->changed) {
        say(r, "nothing is wrong");
        goto done;
    }
    LK_TRY(publish(r, err));
    LK_TRY(move_aside(r, err));
done:
    return st;
}

lk_status lk_store_repair(lk_env *env, const char *dir,
                          void (*note)(void *context, const char *line), void *context,
                          lk_repair_report *out, lk_error *err)
{
    lk_lock_file *lock = NULL;
    lk_store_options o;
    lk_store_options_init(&o);
    repair r = {
        .env = env,
        .dir = dir,
        .note = note,
        .context = context,
        .report = out,
        .next_file = 1,
        .table = {.block_bytes = o.block_bytes,
                  .filter_bits = o.filter_bits,
                  .codec = o.codec,
                  .blob_bytes = o.blob_bytes},
        .values = {.env = env, .dir = dir},
        .table_bytes = o.table_bytes,
    };
    memset(out, 0, sizeof *out);
    lk_edit_init(&r.edit);
    lk_status st = begin(&r, &lock, err);
    if (st == LK_OK) st = run(&r, err);
    for (size_t i = 0; i < r.found_count; i++) lk_table_meta_deinit(&r.found[i].meta);
    free(r.found);
    free(r.aside);
    lk_edit_deinit(&r.edit);
    lk_salvaged_lines_deinit(&r.lines);
    lk_properties_free(&r.properties);
    lk_salvaged_values_deinit(&r.values);
    lk_version_unref(r.version);
    lk_version_unref(r.base);
    lk_manifest_close(r.manifest);
    lk_names_free(&r.names);
    lk_env_unlock(lock);
    return st;
}
