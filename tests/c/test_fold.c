/* test_fold.c: folding changes how versions are stored, never what anybody reads.
 *
 * The oracle is the definition at the head of fold.h, as a recursion over all versions that were ever
 * written. Against it stand all short histories of all kinds of versions, folded at every moment, in
 * every part, for every set of snapshots, and then read by everybody at several times; longer ones by
 * chance, folded again and again, also by an operator that fails now and then.
 */
#include "harness.h"

#include "env_sim.h"
#include "fold.h"

enum { VERSIONS_MAX = 12, TEXT_MAX = 64, STEP = 10, SHORT = 15, LONG = 1000 };

/* ---- histories ---- */

typedef enum shape {
    PUT,
    PUT_SHORT,
    PUT_LONG,
    DELETE,
    MERGE,
    MERGE_SHORT,
    MERGE_LONG,
    SHAPES
} shape;

static const lk_kind KINDS[SHAPES] = {
    LK_KIND_PUT,   LK_KIND_PUT_UNTIL,   LK_KIND_PUT_UNTIL,   LK_KIND_DELETE,
    LK_KIND_MERGE, LK_KIND_MERGE_UNTIL, LK_KIND_MERGE_UNTIL,
};

typedef struct version {
    shape shape;
    uint64_t written, deadline; /* deadline: of those that have one */
    uint8_t stored[24];
    uint32_t stored_len;
} version;

typedef struct history { /* oldest first; version i has sequence i + 1 */
    version versions[VERSIONS_MAX];
    uint32_t count;
} history;

static bool has_deadline(shape s) { return (KINDS[s] & LK_KIND_UNTIL) != 0; }

/* Version i is written at (i + 1) * STEP; a short deadline ends between the next two writes. */
static void history_add(history *h, shape s)
{
    uint32_t i = h->count++;
    version *v = &h->versions[i];
    *v = (version){.shape = s, .written = (uint64_t)(i + 1) * STEP};
    v->deadline = v->written + (s == PUT_SHORT || s == MERGE_SHORT ? SHORT : LONG);
    uint32_t head = lk_kind_head_bytes(KINDS[s]);
    if (head == 16) lk_store64(v->stored, v->written);
    if (head > 0) lk_store64(v->stored + head - 8, v->deadline);
    v->stored_len = head;
    if (s != DELETE) v->stored[v->stored_len++] = (uint8_t)((s <= PUT_LONG ? 'A' : 'a') + i);
}

/* What the first n versions say at time t; false: nothing. */
static bool oracle(const history *h, uint32_t n, uint64_t t, char *out)
{
    if (n == 0) return false;
    const version *v = &h->versions[n - 1];
    if (v->shape == DELETE || (has_deadline(v->shape) && t >= v->deadline)) return false;
    if (v->shape <= PUT_LONG) {
        out[0] = (char)v->stored[v->stored_len - 1];
        out[1] = 0;
        return true;
    }
    if (!oracle(h, n - 1, has_deadline(v->shape) ? v->written : t, out)) strcpy(out, "!");
    size_t len = strlen(out);
    out[len] = (char)v->stored[v->stored_len - 1];
    out[len + 1] = 0;
    return true;
}

/* ---- the operator: appends, and marks where it began with nothing ---- */

static uint64_t *fails_by_chance; /* NULL: never */

static lk_status append_all(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                            size_t count, lk_buffer *out, lk_error *err)
{
    lk_status st = LK_OK;
    (void)op;
    CHECK(count > 0 && out->len == 0);
    if (fails_by_chance != NULL && lk_test_below(fails_by_chance, 2) == 0) {
        return lk_fail(err, LK_OPERATOR, 0, NULL, 0, 0, 0, "by chance");
    }
    if (old != NULL) {
        LK_TRY(lk_buffer_append(out, old->data, old->len, err));
    } else {
        LK_TRY(lk_buffer_append(out, "!", 1, err));
    }
    for (size_t i = 0; i < count; i++) {
        LK_TRY(lk_buffer_append(out, operands[i].data, operands[i].len, err));
    }
done:
    return st;
}

static lk_status append_operands(const lk_operator *op, const lk_bytes *operands, size_t count,
                                 lk_buffer *out, lk_error *err)
{
    static const lk_bytes NOTHING = {NULL, 0};
    CHECK(count > 1);
    return append_all(op, &NOTHING, operands, count, out, err);
}

typedef struct bench {
    lk_sim *sim;
    lk_settings *settings[2]; /* with an operator that is associative, and one that is not */
} bench;

static bench bench_new(void)
{
    bench b = {.sim = lk_sim_new(1)};
    lk_error err;
    for (int i = 0; i < 2; i++) {
        lk_tree_settings tree = {.ttl_us = LK_TTL_NONE};
        CHECK_OK(lk_operator_new("append", append_all, i == 0 ? append_operands : NULL, NULL, NULL,
                                 &tree.op, &err),
                 &err);
        CHECK_OK(lk_settings_new(lk_sim_env(b.sim), &tree, 1, &b.settings[i], &err), &err);
        lk_operator_unref(tree.op);
    }
    return b;
}

static void bench_free(bench *b)
{
    lk_settings_unref(b->settings[0]);
    lk_settings_unref(b->settings[1]);
    lk_sim_free(b->sim);
}

/* ---- stores of one key ---- */

typedef struct store { /* newest first */
    lk_row rows[VERSIONS_MAX];
    uint32_t count;
} store;

static void store_write(store *s, const history *h, uint32_t i)
{
    const version *v = &h->versions[i];
    memmove(s->rows + 1, s->rows, s->count * sizeof *s->rows);
    s->rows[0] = (lk_row){.key = (const uint8_t *)"k",
                          .key_len = 1,
                          .value = v->stored,
                          .value_len = v->stored_len,
                          .seq = i + 1,
                          .kind = KINDS[v->shape]};
    s->count++;
}

/* Folds rows [from, end) at `now`, as a flush or a compaction of just these does. */
static void store_fold(store *s, lk_fold *f, uint32_t from, uint32_t end,
                       const lk_snapshots *snapshots, uint64_t now)
{
    lk_error err;
    uint32_t n = end - from;
    f->now_us = now;
    CHECK_OK(lk_fold_rows(f, s->rows + from, &n, snapshots, 0, end == s->count, from == 0, &err),
             &err);
    CHECK(n <= end - from);
    for (uint32_t i = 1; i < n; i++) CHECK(s->rows[from + i].seq < s->rows[from + i - 1].seq);
    memmove(s->rows + from + n, s->rows + end, (s->count - end) * sizeof *s->rows);
    s->count -= end - from - n;
}

/* What is read as of `seq` at `now`. */
static bool store_read(const store *s, const lk_settings *settings, uint64_t seq, uint64_t now,
                       char *out)
{
    lk_fold f;
    lk_error err;
    lk_bytes value;
    bool decided = false, found;
    uint64_t *chance = fails_by_chance;
    fails_by_chance = NULL;
    lk_fold_init(&f, settings, 0, now);
    lk_fold_begin(&f, 0);
    for (uint32_t i = 0; i < s->count && !decided; i++) {
        const lk_row *r = &s->rows[i];
        if (r->seq > seq) continue;
        CHECK_OK(
            lk_fold_take(&f, r->kind, (lk_bytes){r->value, r->value_len}, r->seq, &decided, &err),
            &err);
    }
    CHECK_OK(lk_fold_value(&f, &found, &value, &err), &err);
    if (found) {
        CHECK(value.len < TEXT_MAX);
        memcpy(out, value.data, value.len);
        out[value.len] = 0;
    }
    lk_fold_deinit(&f);
    fails_by_chance = chance;
    return found;
}

static void check_read(const store *s, const history *h, const lk_settings *settings, uint32_t seq,
                       uint64_t now)
{
    char expected[TEXT_MAX], found[TEXT_MAX];
    bool is_there = oracle(h, seq, now, expected);
    if (store_read(s, settings, seq, now, found) != is_there ||
        (is_there && strcmp(expected, found) != 0)) {
        for (uint32_t i = 0; i < h->count; i++) {
            fprintf(stderr, "version %u: shape %d\n", i + 1, (int)h->versions[i].shape);
        }
        lk_test_fail(__FILE__, __LINE__, "as of %u at %llu: %s, not %s", seq,
                     (unsigned long long)now, is_there ? "another value" : "a value",
                     is_there ? expected : "none");
    }
}

/* Everybody who may look from `now` on: the snapshots, and all who came later than version `k`. */
static void check_all(const store *s, const history *h, const lk_settings *settings,
                      const lk_snapshots *snapshots, uint32_t k, uint64_t now)
{
    static const uint64_t LATER[] = {0, 1, STEP, 2 * STEP, LONG + 100};
    for (size_t l = 0; l < sizeof LATER / sizeof *LATER; l++) {
        for (size_t i = 0; i < snapshots->count; i++) {
            check_read(s, h, settings, (uint32_t)snapshots->seqs[i], now + LATER[l]);
        }
        for (uint32_t seq = k; seq <= h->count; seq++)
            check_read(s, h, settings, seq, now + LATER[l]);
    }
}

/* ---- all short histories ---- */

/* One fold of one part after version k, at `delay` after it, then the later writes. */
static void try_fold(const bench *b, int op, const history *h, uint32_t k, uint64_t delay,
                     uint32_t from, uint32_t end, const lk_snapshots *snapshots)
{
    store s = {.count = 0};
    lk_fold f;
    lk_fold_init(&f, b->settings[op], 0, 1);
    for (uint32_t i = 0; i < k; i++) store_write(&s, h, i);
    store_fold(&s, &f, from, end, snapshots, (uint64_t)k * STEP + delay);
    for (uint32_t i = k; i < h->count; i++) store_write(&s, h, i);
    uint64_t now = (uint64_t)h->count * STEP + delay;
    check_all(&s, h, b->settings[op], snapshots, k, now);
    /* Then all of it, later: what was left over must still be right. */
    store_fold(&s, &f, 0, s.count, snapshots, now + STEP);
    check_all(&s, h, b->settings[op], snapshots, h->count, now + STEP);
    lk_fold_deinit(&f);
}

static void try_history(const bench *b, const history *h)
{
    uint64_t seqs[VERSIONS_MAX];
    for (uint32_t k = 1; k <= h->count; k++) {
        for (uint32_t set = 0; set < 1u << (k - 1); set++) {
            lk_snapshots snapshots = {seqs, 0};
            for (uint32_t i = k - 1; i-- > 0;) {
                if ((set >> i & 1) != 0) seqs[snapshots.count++] = i + 1;
            }
            for (uint32_t from = 0; from < k; from++) {
                for (uint32_t end = from + 1; end <= k; end++) {
                    try_fold(b, 0, h, k, 0, from, end, &snapshots);
                    try_fold(b, 0, h, k, STEP - 2, from, end, &snapshots);
                    try_fold(b, 1, h, k, STEP - 2, from, end, &snapshots);
                }
            }
        }
    }
}

static void try_all(const bench *b, history *h, uint32_t left)
{
    try_history(b, h);
    if (left == 0) return;
    for (int s = 0; s < SHAPES; s++) {
        history longer = *h;
        history_add(&longer, (shape)s);
        try_all(b, &longer, left - 1);
    }
}

LK_TEST(every_short_history_reads_the_same_however_it_is_folded)
{
    bench b = bench_new();
    history h = {.count = 0};
    try_all(&b, &h, 4);
    bench_free(&b);
}

/* ---- longer ones ---- */

static void play(const bench *b, uint64_t *rng, int op)
{
    history h = {.count = 0};
    store s = {.count = 0};
    lk_fold f;
    uint64_t seqs[VERSIONS_MAX];
    lk_snapshots snapshots = {seqs, 0};
    lk_fold_init(&f, b->settings[op], 0, 1);
    while (h.count < VERSIONS_MAX) {
        /* More operands than chance would give: they are what folds. */
        shape next = (shape)lk_test_below(rng, SHAPES + 4);
        history_add(&h, next < SHAPES ? next : lk_test_below(rng, 2) == 0 ? MERGE : MERGE_LONG);
        store_write(&s, &h, h.count - 1);
        uint64_t now = (uint64_t)h.count * STEP + lk_test_below(rng, STEP);
        if (lk_test_below(rng, 2) == 0) {
            uint32_t from = (uint32_t)lk_test_below(rng, s.count);
            uint32_t end = from + 1 + (uint32_t)lk_test_below(rng, s.count - from);
            store_fold(&s, &f, from, end, &snapshots, now);
            check_all(&s, &h, b->settings[op], &snapshots, h.count, now);
        }
        if (lk_test_below(rng, 4) == 0) {
            memmove(seqs + 1, seqs, snapshots.count * sizeof *seqs);
            seqs[0] = h.count;
            snapshots.count++;
        } else if (lk_test_below(rng, 4) == 0 && snapshots.count > 0) {
            snapshots.count--;
        }
    }
    lk_fold_deinit(&f);
}

LK_TEST(long_histories_read_the_same_after_many_folds)
{
    bench b = bench_new();
    uint64_t rng = lk_test_seed();
    for (int i = 0; i < 20000; i++) play(&b, &rng, i % 2);
    bench_free(&b);
}

LK_TEST(an_operator_that_fails_loses_nothing)
{
    bench b = bench_new();
    uint64_t rng = lk_test_seed(), chance = rng + 1;
    fails_by_chance = &chance;
    for (int i = 0; i < 10000; i++) play(&b, &rng, i % 2);
    fails_by_chance = NULL;
    bench_free(&b);
}

/* ---- what is left ---- */

static uint32_t rows_left(const bench *b, const shape *shapes, uint32_t count, uint64_t now,
                          lk_kind *out_kind)
{
    history h = {.count = 0};
    store s = {.count = 0};
    lk_fold f;
    lk_snapshots none = {NULL, 0};
    for (uint32_t i = 0; i < count; i++) {
        history_add(&h, shapes[i]);
        store_write(&s, &h, i);
    }
    lk_fold_init(&f, b->settings[0], 0, 1);
    store_fold(&s, &f, 0, s.count, &none, now);
    *out_kind = s.count > 0 ? s.rows[0].kind : LK_KIND_DELETE;
    lk_fold_deinit(&f);
    return s.count;
}

LK_TEST(the_last_data_of_a_key_is_one_row_or_none)
{
    bench b = bench_new();
    lk_kind kind;
    CHECK_EQ(rows_left(&b, (shape[]){PUT, MERGE, MERGE}, 3, 40, &kind), 1);
    CHECK_EQ(kind, LK_KIND_PUT);
    CHECK_EQ(rows_left(&b, (shape[]){MERGE, MERGE}, 2, 40, &kind), 1);
    CHECK_EQ(kind, LK_KIND_PUT);
    CHECK_EQ(rows_left(&b, (shape[]){MERGE_LONG, MERGE_LONG}, 2, 40, &kind), 1);
    CHECK_EQ(kind, LK_KIND_PUT_UNTIL);
    CHECK_EQ(rows_left(&b, (shape[]){PUT, MERGE_LONG, MERGE, MERGE_LONG}, 4, 40, &kind), 1);
    CHECK_EQ(kind, LK_KIND_PUT_UNTIL);
    CHECK_EQ(rows_left(&b, (shape[]){PUT, DELETE}, 2, 40, &kind), 0);
    CHECK_EQ(rows_left(&b, (shape[]){PUT_SHORT}, 1, 40, &kind), 0);
    CHECK_EQ(rows_left(&b, (shape[]){MERGE_LONG, MERGE_SHORT}, 2, 40, &kind), 0);
    /* An operand over what still ends alone waits; over what has ended it does not. */
    CHECK_EQ(rows_left(&b, (shape[]){PUT_SHORT, MERGE, MERGE}, 3, 20, &kind), 2);
    CHECK_EQ(kind, LK_KIND_MERGE);
    CHECK_EQ(rows_left(&b, (shape[]){PUT_SHORT, MERGE, MERGE}, 3, 40, &kind), 1);
    CHECK_EQ(kind, LK_KIND_PUT);
    bench_free(&b);
}

LK_TEST(versions_below_the_cover_are_dead)
{
    bench b = bench_new();
    history h = {.count = 0};
    lk_error err;
    for (int i = 0; i < 4; i++) history_add(&h, i == 0 ? PUT : MERGE);
    for (uint32_t cover = 0; cover <= 5; cover++) {
        store s = {.count = 0};
        lk_fold f;
        lk_bytes value;
        lk_snapshots none = {NULL, 0};
        bool decided = false, found;
        for (uint32_t i = 0; i < 4; i++) store_write(&s, &h, i);
        lk_fold_init(&f, b.settings[0], 0, 1);
        lk_fold_begin(&f, cover);
        for (uint32_t i = 0; i < 4 && !decided; i++) {
            const lk_row *r = &s.rows[i];
            CHECK_OK(lk_fold_take(&f, r->kind, (lk_bytes){r->value, r->value_len}, r->seq, &decided,
                                  &err),
                     &err);
        }
        CHECK_OK(lk_fold_value(&f, &found, &value, &err), &err);
        static const char *const EXPECTED[] = {"Abcd", "Abcd", "!bcd", "!cd", "!d", ""};
        CHECK_EQ(found, cover < 5);
        if (found)
            CHECK(lk_bytes_equal(value.data, value.len, (const uint8_t *)EXPECTED[cover],
                                 strlen(EXPECTED[cover])));
        uint32_t n = s.count;
        CHECK_OK(lk_fold_rows(&f, s.rows, &n, &none, cover, false, true, &err), &err);
        CHECK_EQ(n, cover < 5 ? 1 : 0);
        if (n == 1) {
            CHECK_EQ(s.rows[0].kind, LK_KIND_PUT);
            CHECK(lk_bytes_equal(s.rows[0].value, s.rows[0].value_len,
                                 (const uint8_t *)EXPECTED[cover], strlen(EXPECTED[cover])));
        }
        lk_fold_deinit(&f);
    }
    bench_free(&b);
}
