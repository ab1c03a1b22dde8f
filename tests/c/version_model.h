/* version_model.h: what versions mean, said again in the simplest way, and random edits.
 *
 * The model is three flat lists: tables, the lower bounds of ranges, and which table stands in which
 * range. It knows no runs, heads or sharing. An edit is a list of operations, which the model judges
 * (does it fit?) and carries out, and which model_edit turns into an lk_edit.
 *
 * Callers   test_version.c, test_manifest.c; included after harness.h.
 */
#ifndef LK_TEST_VERSION_MODEL_H
#define LK_TEST_VERSION_MODEL_H

#include "version.h"

enum {
    MODEL_TREES = 3,
    MODEL_TABLES_MAX = 512,
    MODEL_RANGES_MAX = 256,
    MODEL_STANDS_MAX = 8192,
    MODEL_OPS_MAX = 64,
    MODEL_KEY_BYTES = 24,
};

typedef struct model_key {
    size_t len;
    uint8_t data[MODEL_KEY_BYTES];
} model_key;

typedef struct model_table {
    uint64_t file, stamp, nonce;
    uint32_t tree, level;
    model_key min, max;
} model_table;

typedef struct model_range {
    uint32_t tree;
    model_key lower;
} model_range;

typedef struct model_stand {
    uint32_t tree;
    model_key lower;
    uint64_t file;
} model_stand;

typedef struct model {
    model_table tables[MODEL_TABLES_MAX];
    model_range ranges[MODEL_RANGES_MAX];
    model_stand stands[MODEL_STANDS_MAX];
    size_t table_count, range_count, stand_count;
    uint64_t number;
} model;

typedef enum model_kind { MODEL_DROP, MODEL_REMOVE, MODEL_JOIN, MODEL_SPLIT, MODEL_ADD } model_kind;

typedef struct model_op {
    model_kind kind;
    uint32_t tree;
    model_key key;     /* remove: lower; join, split: at */
    uint64_t file;     /* remove */
    model_table table; /* add */
} model_op;

typedef struct model_ops {
    model_op ops[MODEL_OPS_MAX];
    size_t count;
} model_ops;

static int model_compare(const model_key *a, const model_key *b)
{
    return lk_key_compare(a->data, a->len, b->data, b->len);
}

static lk_bytes model_bytes(const model_key *k) { return (lk_bytes){k->data, k->len}; }

/* Keys that lie close together: short ones, ones with a long common beginning, zero bytes. */
static model_key model_random_key(uint64_t *rng)
{
    static const char ALPHABET[] = {0, 'a', 'b', (char)0xff};
    model_key k = {.len = 0};
    if (lk_test_below(rng, 3) != 0) {
        memcpy(k.data, "device-0001/", 12);
        k.len = 12;
    }
    for (uint64_t n = lk_test_below(rng, 11); n > 0; n--) {
        k.data[k.len++] = (uint8_t)ALPHABET[lk_test_below(rng, sizeof ALPHABET)];
    }
    return k;
}

LK_TEST_UNUSED static void model_init(model *m) { memset(m, 0, sizeof *m); }

static model_table *model_find(model *m, uint64_t file)
{
    for (size_t i = 0; i < m->table_count; i++) {
        if (m->tables[i].file == file) return &m->tables[i];
    }
    return NULL;
}

static size_t model_stands_of(const model *m, uint64_t file)
{
    size_t n = 0;
    for (size_t i = 0; i < m->stand_count; i++) n += m->stands[i].file == file;
    return n;
}

static bool model_stands_in(const model *m, uint32_t tree, const model_key *lower, uint64_t file)
{
    for (size_t i = 0; i < m->stand_count; i++) {
        const model_stand *s = &m->stands[i];
        if (s->tree == tree && s->file == file && model_compare(&s->lower, lower) == 0) return true;
    }
    return false;
}

/* A tree has its range "" as soon as anything is asked of it. */
static void model_touch(model *m, uint32_t tree)
{
    for (size_t i = 0; i < m->range_count; i++) {
        if (m->ranges[i].tree == tree) return;
    }
    m->ranges[m->range_count++] = (model_range){.tree = tree};
}

static model_range *model_range_at(model *m, uint32_t tree, const model_key *lower)
{
    for (size_t i = 0; i < m->range_count; i++) {
        model_range *r = &m->ranges[i];
        if (r->tree == tree && model_compare(&r->lower, lower) == 0) return r;
    }
    return NULL;
}

/* The range with the greatest bound not above (with `below`: less than) the key. */
static model_range *model_range_of(model *m, uint32_t tree, const model_key *key, bool below)
{
    model_range *best = NULL;
    for (size_t i = 0; i < m->range_count; i++) {
        model_range *r = &m->ranges[i];
        if (r->tree != tree || model_compare(&r->lower, key) > (below ? -1 : 0)) continue;
        if (best == NULL || model_compare(&r->lower, &best->lower) > 0) best = r;
    }
    return best;
}

/* Whether the range of `lower` has a key of [min, max] in it. */
static bool model_touches(model *m, uint32_t tree, const model_key *lower, const model_table *t)
{
    model_range *first = model_range_of(m, tree, &t->min, false);
    model_range *last = model_range_of(m, tree, &t->max, false);
    return model_compare(&first->lower, lower) <= 0 && model_compare(&last->lower, lower) >= 0;
}

static void model_stand_add(model *m, uint32_t tree, const model_key *lower, uint64_t file)
{
    CHECK(m->stand_count < MODEL_STANDS_MAX);
    m->stands[m->stand_count++] = (model_stand){.tree = tree, .lower = *lower, .file = file};
}

/* Whether a table of its run stands in the range and has a key in common with it. */
static bool model_overlaps(model *m, const model_key *lower, const model_table *t)
{
    for (size_t i = 0; i < m->stand_count; i++) {
        const model_stand *s = &m->stands[i];
        if (s->tree != t->tree || model_compare(&s->lower, lower) != 0) continue;
        const model_table *o = model_find(m, s->file);
        if (o->level == t->level && o->stamp == t->stamp && model_compare(&o->min, &t->max) <= 0 &&
            model_compare(&t->min, &o->max) <= 0) {
            return true;
        }
    }
    return false;
}

static bool model_do_remove(model *m, const model_op *op)
{
    for (size_t i = 0; i < m->stand_count; i++) {
        model_stand *s = &m->stands[i];
        if (s->tree == op->tree && s->file == op->file && model_compare(&s->lower, &op->key) == 0) {
            *s = m->stands[--m->stand_count];
            return true;
        }
    }
    return false;
}

static bool model_do_join(model *m, const model_op *op)
{
    model_range *right = model_range_at(m, op->tree, &op->key);
    if (right == NULL || op->key.len == 0) return false;
    model_key left = model_range_of(m, op->tree, &op->key, true)->lower;
    for (size_t i = 0; i < m->stand_count; i++) {
        const model_stand *s = &m->stands[i];
        const model_table *t = model_find(m, s->file);
        if (s->tree != op->tree || model_compare(&t->min, &op->key) >= 0 ||
            model_compare(&t->max, &op->key) < 0) {
            continue;
        }
        if (model_stands_in(m, op->tree, &left, s->file) !=
            model_stands_in(m, op->tree, &op->key, s->file)) {
            return false;
        }
    }
    for (size_t i = 0; i < m->stand_count;) {
        model_stand *s = &m->stands[i];
        if (s->tree == op->tree && model_compare(&s->lower, &op->key) == 0) {
            if (model_stands_in(m, op->tree, &left, s->file)) {
                *s = m->stands[--m->stand_count];
                continue;
            }
            s->lower = left;
        }
        i++;
    }
    *right = m->ranges[--m->range_count];
    return true;
}

static bool model_do_split(model *m, const model_op *op)
{
    model_range *range = model_range_of(m, op->tree, &op->key, false);
    if (model_compare(&range->lower, &op->key) == 0) return false;
    model_key lower = range->lower;
    CHECK(m->range_count < MODEL_RANGES_MAX);
    m->ranges[m->range_count++] = (model_range){.tree = op->tree, .lower = op->key};
    size_t count = m->stand_count;
    for (size_t i = 0; i < count; i++) {
        model_stand *s = &m->stands[i];
        if (s->tree != op->tree || model_compare(&s->lower, &lower) != 0) continue;
        const model_table *t = model_find(m, s->file);
        if (model_compare(&t->max, &op->key) < 0) continue;
        if (model_compare(&t->min, &op->key) >= 0) {
            s->lower = op->key;
        } else {
            model_stand_add(m, op->tree, &op->key, s->file);
        }
    }
    return true;
}

static bool model_do_add(model *m, const model_op *op)
{
    const model_table *t = &op->table;
    model_table *there = model_find(m, t->file);
    if (model_compare(&t->min, &t->max) > 0 || model_stands_of(m, t->file) > 0) return false;
    if (there != NULL && (there->tree != t->tree || there->nonce != t->nonce)) return false;
    for (size_t i = 0; i < m->range_count; i++) {
        const model_range *r = &m->ranges[i];
        if (r->tree == t->tree && model_touches(m, t->tree, &r->lower, t) &&
            model_overlaps(m, &r->lower, t)) {
            return false;
        }
    }
    if (there == NULL) there = &m->tables[m->table_count++];
    CHECK(m->table_count <= MODEL_TABLES_MAX);
    *there = *t;
    for (size_t i = 0; i < m->range_count; i++) {
        const model_range *r = &m->ranges[i];
        if (r->tree == t->tree && model_touches(m, t->tree, &r->lower, t)) {
            model_stand_add(m, t->tree, &r->lower, t->file);
        }
    }
    return true;
}

static bool model_do_drop(model *m, const model_op *op)
{
    for (size_t i = 0; i < m->stand_count;) {
        if (m->stands[i].tree == op->tree) {
            m->stands[i] = m->stands[--m->stand_count];
        } else {
            i++;
        }
    }
    for (size_t i = 0; i < m->range_count;) {
        if (m->ranges[i].tree == op->tree) {
            m->ranges[i] = m->ranges[--m->range_count];
        } else {
            i++;
        }
    }
    return true;
}

/* Carries the operations out, in the order of kinds; false (and `m` is spoilt) when one does not
 * fit. Tables that stand nowhere afterwards are forgotten. */
static bool model_apply(model *m, const model_ops *ops)
{
    for (int kind = MODEL_DROP; kind <= MODEL_ADD; kind++) {
        for (size_t i = 0; i < ops->count; i++) {
            const model_op *op = &ops->ops[i];
            bool ok = true;
            if ((int)op->kind != kind) continue;
            model_touch(m, op->tree);
            if (kind == MODEL_DROP) ok = model_do_drop(m, op);
            if (kind == MODEL_REMOVE) ok = model_do_remove(m, op);
            if (kind == MODEL_JOIN) ok = model_do_join(m, op);
            if (kind == MODEL_SPLIT) ok = model_do_split(m, op);
            if (kind == MODEL_ADD) ok = model_do_add(m, op);
            if (!ok) return false;
        }
    }
    for (size_t i = 0; i < m->table_count;) {
        if (model_stands_of(m, m->tables[i].file) == 0) {
            m->tables[i] = m->tables[--m->table_count];
        } else {
            i++;
        }
    }
    m->number++;
    return true;
}

/* ---- edits ---- */

static lk_table_meta model_meta(const model_table *t)
{
    lk_error err;
    lk_table_meta from = {.file = t->file,
                          .nonce = t->nonce,
                          .bytes = 1000 + t->file,
                          .rows = 10,
                          .tombstones = 3,
                          .raw_bytes = 4000,
                          .seq_min = t->file,
                          .seq_max = t->file + 9,
                          .tree = t->tree,
                          .min_len = (uint32_t)t->min.len,
                          .max_len = (uint32_t)t->max.len,
                          .min_key = (uint8_t *)(uintptr_t)t->min.data,
                          .max_key = (uint8_t *)(uintptr_t)t->max.data};
    lk_table_meta out;
    CHECK_OK(lk_table_meta_copy(&from, &out, &err), &err);
    return out;
}

/* The same as an lk_edit, appended to `e`. */
static void model_edit(const model_ops *ops, lk_edit *e)
{
    lk_error err;
    for (size_t i = 0; i < ops->count; i++) {
        const model_op *op = &ops->ops[i];
        lk_bytes key = model_bytes(&op->key);
        lk_table_meta meta;
        switch (op->kind) {
        case MODEL_DROP:
            CHECK_OK(lk_edit_drop(e, op->tree, &err), &err);
            break;
        case MODEL_REMOVE:
            CHECK_OK(lk_edit_remove_table(e, op->tree, key, op->file, &err), &err);
            break;
        case MODEL_JOIN:
            CHECK_OK(lk_edit_join(e, op->tree, key, &err), &err);
            break;
        case MODEL_SPLIT:
            CHECK_OK(lk_edit_split(e, op->tree, key, &err), &err);
            break;
        case MODEL_ADD:
            meta = model_meta(&op->table);
            CHECK_OK(lk_edit_add_table(e, &meta, op->table.level, op->table.stamp, NULL, &err),
                     &err);
            CHECK(meta.min_key == NULL);
            break;
        }
    }
}

/* A table with a new number from `*next`; a run of its own unless the caller says otherwise. */
static model_table model_new_table(uint64_t *rng, uint32_t tree, uint64_t *next)
{
    model_table t = {.file = (*next)++, .tree = tree, .nonce = lk_test_rand(rng)};
    t.min = model_random_key(rng);
    t.max = model_random_key(rng);
    if (model_compare(&t.min, &t.max) > 0) {
        model_key swap = t.min;
        t.min = t.max;
        t.max = swap;
    }
    t.stamp = t.file;
    t.level = lk_test_below(rng, 3) == 0 ? LK_LEVEL_LAST : (uint32_t)lk_test_below(rng, 4);
    return t;
}

static void model_random_op(model *m, uint64_t *rng, uint64_t *next, model_ops *out)
{
    model_op op = {.tree = (uint32_t)lk_test_below(rng, MODEL_TREES)};
    uint64_t dice = lk_test_below(rng, 100);
    bool is_full = m->stand_count > 300;
    if (dice < (is_full ? 0 : 25)) {
        op.kind = MODEL_ADD;
        op.table = model_new_table(rng, op.tree, next);
    } else if (dice < (is_full ? 0 : 40) && m->table_count > 0) {
        /* Another table of a run that is there: may overlap it. */
        model_table like = m->tables[lk_test_below(rng, m->table_count)];
        op.kind = MODEL_ADD;
        op.tree = like.tree;
        op.table = model_new_table(rng, like.tree, next);
        op.table.level = like.level;
        op.table.stamp = like.stamp;
    } else if (dice < 65 && m->stand_count > 0) {
        const model_stand *s = &m->stands[lk_test_below(rng, m->stand_count)];
        op = (model_op){.kind = MODEL_REMOVE, .tree = s->tree, .key = s->lower, .file = s->file};
    } else if (dice < 75) {
        op.kind = MODEL_SPLIT;
        op.key = model_random_key(rng);
    } else if (dice < 85 && m->range_count > 0) {
        const model_range *r = &m->ranges[lk_test_below(rng, m->range_count)];
        op = (model_op){.kind = MODEL_JOIN, .tree = r->tree, .key = r->lower};
    } else if (dice < 95 && m->table_count > 0) {
        /* A table moves: it leaves all its ranges, mostly, and comes at another level. */
        model_table t = m->tables[lk_test_below(rng, m->table_count)];
        for (size_t i = 0; i < m->stand_count && out->count + 1 < MODEL_OPS_MAX; i++) {
            const model_stand *s = &m->stands[i];
            if (s->file != t.file || lk_test_below(rng, 50) == 0) continue;
            out->ops[out->count++] =
                (model_op){.kind = MODEL_REMOVE, .tree = s->tree, .key = s->lower, .file = s->file};
        }
        op = (model_op){.kind = MODEL_ADD, .tree = t.tree, .table = t};
        op.table.level = (uint32_t)lk_test_below(rng, LK_LEVEL_LAST + 1);
        if (lk_test_below(rng, 2) == 0) op.table.stamp = (*next)++;
    } else if (dice < 96) {
        op.kind = MODEL_DROP;
    } else if (dice < 98) {
        op = (model_op){.kind = MODEL_REMOVE,
                        .tree = op.tree,
                        .key = model_random_key(rng),
                        .file = 1 + lk_test_below(rng, *next)};
    } else {
        op.kind = MODEL_JOIN;
        op.key = model_random_key(rng);
    }
    if (out->count < MODEL_OPS_MAX) out->ops[out->count++] = op;
}

static void model_random_ops(model *m, uint64_t *rng, uint64_t *next, model_ops *out)
{
    out->count = 0;
    for (uint64_t n = 1 + lk_test_below(rng, 4); n > 0; n--) model_random_op(m, rng, next, out);
}

/* ---- comparing ---- */

/* Whether the version holds exactly the model's ranges, tables and stands, in their order. */
static void model_check(model *m, const lk_version *v)
{
    size_t ranges = 0, stands = 0, files = 0;
    CHECK_EQ(v->number, m->number);
    for (uint32_t tree = 0; tree < v->tree_count; tree++) {
        const lk_tree_version *t = v->trees[tree];
        if (t == NULL) continue;
        CHECK_EQ(t->tree, tree);
        CHECK(t->range_count > 1 || t->file_count > 0);
        ranges += t->range_count;
        files += t->file_count;
        for (uint32_t f = 0; f < t->file_count; f++) {
            const lk_tree_file *file = &t->files[f];
            const model_table *is = model_find(m, file->file);
            CHECK(f == 0 || t->files[f - 1].file < file->file);
            CHECK(is != NULL && is->tree == tree);
            CHECK(is->level == file->level && is->stamp == file->stamp);
            CHECK_EQ(model_stands_of(m, file->file), file->ranges);
            const lk_table_meta *meta = lk_table_meta_of(file->table);
            CHECK(meta->file == file->file && meta->nonce == is->nonce && meta->tree == tree);
            CHECK(lk_bytes_equal(meta->min_key, meta->min_len, is->min.data, is->min.len));
            CHECK(lk_bytes_equal(meta->max_key, meta->max_len, is->max.data, is->max.len));
            CHECK(lk_tree_version_file(t, file->file) == file);
        }
        for (uint32_t i = 0; i < t->range_count; i++) {
            const lk_range *range = &t->ranges[i];
            model_key lower = {.len = range->lower.len};
            CHECK(range->lower.len <= sizeof lower.data);
            memcpy(lower.data, range->lower.data, range->lower.len);
            CHECK(i > 0 ? lk_key_compare(t->ranges[i - 1].lower.data, t->ranges[i - 1].lower.len,
                                         lower.data, lower.len) < 0
                        : lower.len == 0);
            CHECK(model_range_at(m, tree, &lower) != NULL);
            for (uint32_t r = 0; r < range->run_count; r++) {
                const lk_run *run = &range->runs[r];
                CHECK(r == 0 || run[-1].level < run->level ||
                      (run[-1].level == run->level && run[-1].stamp > run->stamp));
                CHECK(run->count > 0);
                for (uint32_t k = 0; k < run->count; k++) {
                    const lk_table_meta *meta = lk_table_meta_of(run->tables[k]);
                    const lk_tree_file *file = lk_tree_version_file(t, meta->file);
                    CHECK(file != NULL && file->table == run->tables[k]);
                    CHECK(file->level == run->level && file->stamp == run->stamp);
                    CHECK(model_stands_in(m, tree, &lower, meta->file));
                    if (k == 0) continue;
                    const lk_table_meta *before = lk_table_meta_of(run->tables[k - 1]);
                    CHECK(lk_key_compare(before->max_key, before->max_len, meta->min_key,
                                         meta->min_len) < 0);
                }
                stands += run->count;
            }
        }
    }
    CHECK_EQ(files, m->table_count);
    CHECK_EQ(stands, m->stand_count);
    /* A tree with one range and no tables is no tree. */
    size_t model_ranges = 0;
    for (size_t i = 0; i < m->range_count; i++) {
        uint32_t tree = m->ranges[i].tree;
        model_ranges += lk_version_tree(v, tree) != NULL;
    }
    CHECK_EQ(ranges, model_ranges);
    for (uint32_t tree = 0; tree < MODEL_TREES; tree++) {
        size_t n = 0;
        for (size_t i = 0; i < m->range_count; i++) n += m->ranges[i].tree == tree;
        CHECK(n <= 1 || lk_version_tree(v, tree) != NULL);
    }
}

#endif
