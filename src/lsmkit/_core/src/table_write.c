/* table_write.c: writing a table from rows, or from whole blocks of other tables.
 *
 * Owns      the file until it is finished; the output buffer; the staging columns of the block that
 *           is being filled; the hashes of all keys, for the filter.
 * Callers   flush.c adds rows; compact.c adds rows and blocks.
 * Threads   a writer belongs to one thread.
 * Always    rows ascend; a block ends only between two keys; `written` + `out_len` is where the
 *           next block will stand, which its checksum is seeded with.
 * Errors    after one the writer refuses everything but lk_table_writer_free.
 *
 * The buffer goes out in whole pieces of 256 KiB: as cheap a row as larger ones, and the offsets
 * stay aligned to pages.
 */
#include "table.h"

#include <stdlib.h>

#include "block_write.h"
#include "check.h"
#include "filter.h"
#include "hash.h"
#include "table_parts.h"

enum {
    WRITE_BYTES = 256 << 10,
    WRITEBACK_BYTES = 1 << 20, /* handed to the disk early, so that the sync at the end is short */
    OUT_BYTES_KEPT = 4 << 20,  /* a buffer grown by one huge block is given back after it */
};

struct lk_table_writer {
    /* fixed */
    lk_env *env;
    lk_table_options options;
    char *path;
    lk_file *file;
    lk_status failed; /* the first error; LK_OK */
    bool is_sealed;   /* data, filter and index are in the file */
    bool is_finished;

    uint8_t *out; /* aligned to 64 bytes */
    size_t out_len, out_capacity;
    uint64_t written;      /* bytes of the file; out[0] will stand there */
    uint64_t written_back; /* of them, handed to the disk */

    lk_block_writer block, index;
    lk_filter_builder filter;
    uint64_t last_hash;
    uint8_t *last_key; /* of the block closed last, LK_KEY_BYTES_MAX bytes */
    uint32_t last_len;
    uint64_t rows;   /* in closed blocks */
    uint64_t blocks; /* of a sealed one */
    uint64_t seq_base;
    lk_table_footer footer; /* what is known of it once it is sealed */
    lk_table_meta meta;     /* what it will say; keys and uses owned */
    size_t held;            /* bytes that it said that it holds */

    const char *dir;
    lk_blob_writer *apart;  /* the values that stand apart; NULL: none so far */
    uint32_t inline_max;    /* no value up to this length does */
    uint32_t blob_capacity; /* of meta.blobs */
    uint8_t reference[LK_HEAD_BYTES_MAX + LK_BLOB_REF_BYTES];
};

/* ---- life ---- */

/* Buffers, and what grows with the table: a hash a key. */
static void hold(lk_table_writer *w, size_t bytes)
{
    if (w->options.held == NULL || bytes == w->held) return;
    /* Modulo 2^64 an addition of less is one too. */
    atomic_fetch_add_explicit(w->options.held, (uint64_t)bytes - w->held, memory_order_relaxed);
    w->held = bytes;
}

static size_t writer_memory(const lk_table_writer *w)
{
    return sizeof *w + LK_KEY_BYTES_MAX + w->out_capacity + 2 * (size_t)w->options.block_bytes +
           w->filter.capacity * sizeof *w->filter.hashes +
           (w->apart == NULL ? 0 : lk_blob_writer_memory(w->apart));
}

static lk_status create_file(lk_table_writer *w, lk_error *err)
{
    int flags = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_EXCLUSIVE;
    lk_status st = lk_env_open(w->env, w->path, flags, &w->file, err);
    if (st != LK_EXISTS) return st;
    /* A table that a crash kept from being published. It is unlinked, not truncated: another name
     * of the file may be part of a checkpoint. */
    st = lk_env_unlink(w->env, w->path, err);
    return st == LK_OK ? lk_env_open(w->env, w->path, flags, &w->file, err) : st;
}

static lk_status reserve_out(lk_table_writer *w, size_t more, lk_error *err)
{
    size_t need = w->out_len + more;
    if (need <= w->out_capacity) return LK_OK;
    size_t capacity = (size_t)lk_align_up(need, WRITE_BYTES);
    uint8_t *grown = aligned_alloc(LK_FILTER_LINE_BYTES, capacity);
    if (grown == NULL) return lk_fail_nomem(err, capacity);
    if (w->out_len > 0) memcpy(grown, w->out, w->out_len);
    free(w->out);
    w->out = grown;
    w->out_capacity = capacity;
    return LK_OK;
}

static void clamp_options(lk_table_options *o)
{
    if (o->block_bytes < LK_BLOCK_BYTES_MIN) o->block_bytes = LK_BLOCK_BYTES_MIN;
    if (o->block_bytes > LK_BLOCK_BYTES_MAX) o->block_bytes = LK_BLOCK_BYTES_MAX;
    if (o->filter_bits > LK_FILTER_BITS_MAX) o->filter_bits = LK_FILTER_BITS_MAX;
}

lk_status lk_table_writer_new(lk_env *env, const char *dir, uint64_t file, uint32_t tree,
                              const lk_table_options *options, lk_table_writer **out, lk_error *err)
{
    lk_status st = LK_OK;
    *out = NULL;
    size_t path_bytes = strlen(dir) + 32;
    lk_table_writer *w = calloc(1, sizeof *w);
    if (w == NULL) return lk_fail_nomem(err, sizeof *w);
    w->env = env;
    w->dir = dir;
    w->options = *options;
    w->inline_max = options->blob_bytes == 0 ? UINT32_MAX : options->blob_bytes;
    clamp_options(&w->options);
    w->meta = (lk_table_meta){.file = file, .tree = tree, .seq_min = UINT64_MAX};
    lk_env_random(env, &w->meta.nonce, sizeof w->meta.nonce);
    w->path = malloc(path_bytes);
    w->last_key = malloc(LK_KEY_BYTES_MAX);
    if (w->path == NULL || w->last_key == NULL) {
        st = lk_fail_nomem(err, path_bytes + LK_KEY_BYTES_MAX);
        goto done;
    }
    lk_table_path(dir, file, w->path, path_bytes);
    LK_TRY(lk_block_writer_init(&w->block, options->codec, err));
    LK_TRY(lk_block_writer_init(&w->index, LK_CODEC_NONE, err));
    LK_TRY(reserve_out(w, WRITE_BYTES + 2 * (size_t)w->options.block_bytes, err));
    LK_TRY(create_file(w, err));
    *out = w;
    w = NULL;
done:
    lk_table_writer_free(w);
    return st;
}

void lk_table_writer_free(lk_table_writer *w)
{
    if (w == NULL) return;
    hold(w, 0);
    if (w->file != NULL || w->is_sealed) {
        lk_file_close(w->file);
        /* The error that led here is what the caller hears; the file is under no published name. */
        if (!w->is_finished) (void)lk_env_unlink(w->env, w->path, NULL);
    }
    lk_blob_writer_free(w->apart, w->is_finished);
    lk_block_writer_deinit(&w->block);
    lk_block_writer_deinit(&w->index);
    lk_filter_builder_deinit(&w->filter);
    lk_table_meta_deinit(&w->meta);
    free(w->out);
    free(w->last_key);
    free(w->path);
    free(w);
}

/* Remembers the first error, so that a caller that goes on by mistake cannot publish half a table.
 */
static lk_status note(lk_table_writer *w, lk_status st)
{
    if (st != LK_OK && w->failed == LK_OK) w->failed = st;
    return st;
}

static lk_status refuse(const lk_table_writer *w, lk_error *err)
{
    return lk_fail(err, w->failed, 0, w->path, w->written, 0, 0,
                   "writing this table failed before: %s", lk_status_name(w->failed));
}

/* ---- output ---- */

static lk_status write_out(lk_table_writer *w, size_t bytes, lk_error *err)
{
    const atomic_bool *cancel = w->options.cancel;
    if (bytes == 0) return LK_OK;
    if (w->options.limiter != NULL) lk_limiter_take(w->options.limiter, bytes, cancel);
    if (cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed)) {
        return lk_fail(err, LK_CANCELLED, 0, w->path, w->written, 0, 0,
                       "writing the table was cancelled");
    }
    lk_status st = lk_file_write(w->file, w->written, w->out, bytes, err);
    if (st != LK_OK) return st;
    memmove(w->out, w->out + bytes, w->out_len - bytes);
    w->out_len -= bytes;
    w->written += bytes;
    if (w->written - w->written_back >= WRITEBACK_BYTES) {
        lk_file_writeback(w->file, w->written_back, w->written - w->written_back);
        w->written_back = w->written;
    }
    return LK_OK;
}

static lk_status write_whole_pieces(lk_table_writer *w, lk_error *err)
{
    if (w->out_len < WRITE_BYTES) return LK_OK;
    lk_status st = write_out(w, w->out_len & ~(size_t)(WRITE_BYTES - 1), err);
    if (st != LK_OK || w->out_capacity <= OUT_BYTES_KEPT) return st;
    size_t kept = w->out_len;
    uint8_t *large = w->out;
    w->out = NULL;
    w->out_len = w->out_capacity = 0;
    st = reserve_out(w, 2 * WRITE_BYTES, err);
    if (st == LK_OK) memcpy(w->out, large, kept);
    w->out_len = st == LK_OK ? kept : 0;
    free(large);
    return st;
}

/* ---- blocks ---- */

static void note_rows(lk_table_writer *w, uint64_t rows, uint64_t tombstones, uint64_t raw_bytes,
                      uint64_t seq_min, uint64_t seq_max)
{
    w->rows += rows;
    w->meta.tombstones += tombstones;
    w->meta.raw_bytes += raw_bytes;
    if (seq_min < w->meta.seq_min) w->meta.seq_min = seq_min;
    if (seq_max > w->meta.seq_max) w->meta.seq_max = seq_max;
}

static void note_specials(lk_table_writer *w, const lk_block_writer *b)
{
    w->meta.operands += b->operands;
    if (b->deadlines == 0) return;
    if (w->meta.deadlines == 0 || b->deadline_min < w->meta.deadline_min) {
        w->meta.deadline_min = b->deadline_min;
    }
    if (b->deadline_max > w->meta.deadline_max) w->meta.deadline_max = b->deadline_max;
    w->meta.deadlines += b->deadlines;
}

static lk_status set_min_key(lk_table_writer *w, lk_bytes key, lk_error *err)
{
    if (w->meta.min_key != NULL) return LK_OK;
    w->meta.min_key = malloc(key.len > 0 ? key.len : 1);
    if (w->meta.min_key == NULL) return lk_fail_nomem(err, key.len);
    if (key.len > 0) memcpy(w->meta.min_key, key.data, key.len);
    w->meta.min_len = (uint32_t)key.len;
    return LK_OK;
}

static void set_last_key(lk_table_writer *w, lk_bytes key)
{
    if (key.len > 0) memcpy(w->last_key, key.data, key.len);
    w->last_len = (uint32_t)key.len;
}

/* Takes the block of `bytes` that was put behind the output, and whose last key is `last_key`, into
 * the output and the index. */
static lk_status take_block(lk_table_writer *w, size_t bytes, uint32_t rows, lk_error *err)
{
    uint8_t place[LK_TABLE_PLACE_BYTES];
    lk_store64(place, w->written + w->out_len);
    lk_store32(place + 8, (uint32_t)bytes);
    lk_store32(place + 12, rows);
    lk_row row = {.key = w->last_key,
                  .key_len = w->last_len,
                  .value = place,
                  .value_len = sizeof place,
                  .hash = lk_hash_key(w->meta.tree, w->last_key, w->last_len),
                  .kind = LK_KIND_PUT};
    lk_status st = lk_block_writer_add(&w->index, &row, false, err);
    if (st != LK_OK) return st;
    w->out_len += bytes;
    return write_whole_pieces(w, err);
}

static lk_status close_block(lk_table_writer *w, lk_error *err)
{
    lk_status st = LK_OK;
    lk_block_writer *b = &w->block;
    if (b->rows == 0) return LK_OK;
    uint32_t rows = b->rows;
    set_last_key(w, lk_block_writer_last_key(b));
    LK_TRY(set_min_key(w, (lk_bytes){b->keys, b->first_key_len}, err));
    note_rows(w, rows, b->tombstones, lk_block_writer_raw_bytes(b), b->seq_min, b->seq_max);
    note_specials(w, b);
    LK_TRY(reserve_out(w, lk_block_writer_bound(b), err));
    size_t bytes =
        lk_block_writer_finish(b, w->meta.nonce, w->written + w->out_len, w->out + w->out_len);
    LK_TRY(take_block(w, bytes, rows, err));
done:
    return st;
}

/* ---- rows ---- */

/* Whether `row` is a further version of the last row added. Equal hashes are almost always equal
 * keys, so the keys are compared only then. */
static inline bool is_version_of_last(const lk_table_writer *w, const lk_row *row)
{
    if (LK_LIKELY(row->hash != w->last_hash) || w->block.rows == 0) return false;
    lk_bytes last = lk_block_writer_last_key(&w->block);
    return lk_bytes_equal(last.data, last.len, row->key, row->key_len);
}

static inline __attribute__((unused)) bool is_in_order(const lk_table_writer *w, const lk_row *row,
                                                       bool is_version)
{
    lk_bytes last = {w->last_key, w->last_len};
    if (w->block.rows > 0) last = lk_block_writer_last_key(&w->block);
    if (w->block.rows == 0 && w->index.rows == 0) return true;
    if (is_version) return row->seq < w->block.seqs[w->block.rows - 1];
    return lk_key_compare(last.data, last.len, row->key, row->key_len) < 0;
}

/* ---- values apart ---- */

/* The use of the file, added if it is a new one. */
static lk_status blob_use(lk_table_writer *w, uint64_t file, lk_blob_use **out, lk_error *err)
{
    *out = (lk_blob_use *)(uintptr_t)lk_table_meta_blob(&w->meta, file);
    if (*out != NULL) return LK_OK;
    const lk_blob_item *item = lk_blob_files_find(w->options.blobs, file);
    if (item == NULL && file != w->meta.file) {
        return lk_fail_corrupt(err, w->path, 0, 0, file,
                               "a row refers to the file of values %llu, which no table uses",
                               (unsigned long long)file);
    }
    if (w->meta.blob_count == w->blob_capacity) {
        uint32_t capacity = w->blob_capacity < 4 ? 8 : 2 * w->blob_capacity;
        lk_blob_use *larger = realloc(w->meta.blobs, capacity * sizeof *larger);
        if (larger == NULL) return lk_fail_nomem(err, capacity * sizeof *larger);
        w->meta.blobs = larger;
        w->blob_capacity = capacity;
    }
    uint32_t at = w->meta.blob_count++;
    for (; at > 0 && w->meta.blobs[at - 1].file > file; at--) {
        w->meta.blobs[at] = w->meta.blobs[at - 1];
    }
    w->meta.blobs[at] =
        (lk_blob_use){.file = file, .size = item == NULL ? 0 : lk_blob_file_size(item->file)};
    *out = &w->meta.blobs[at];
    return LK_OK;
}

/* The row as it will stand in the table: with a reference for a value that is too long. What stands
 * apart already only is counted. */
static __attribute__((noinline)) lk_status put_apart(lk_table_writer *w, const lk_row *row,
                                                     lk_row *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t head = lk_kind_head_bytes(row->kind);
    lk_blob_use *use;
    lk_blob_ref ref;
    *out = *row;
    if (lk_kind_is_blob(row->kind)) {
        ref = lk_blob_ref_decode(row->value + head);
    } else {
        bool is_put = (row->kind & ~(unsigned)LK_KIND_UNTIL) == LK_KIND_PUT;
        if (!is_put || row->value_len - head <= w->inline_max) return LK_OK;
        if (w->apart == NULL) {
            const lk_table_options *o = &w->options;
            LK_TRY(lk_blob_writer_new(w->env, w->dir, w->meta.file, o->codec, o->limiter, o->cancel,
                                      &w->apart, err));
        }
        lk_bytes value = {row->value + head, row->value_len - head};
        LK_TRY(lk_blob_writer_add(w->apart, row->hash, value, &ref, err));
        memcpy(w->reference, row->value, head);
        lk_blob_ref_encode(&ref, w->reference + head);
        out->value = w->reference;
        out->value_len = head + LK_BLOB_REF_BYTES;
        out->kind = LK_KIND_BLOB | (row->kind & LK_KIND_UNTIL);
    }
    LK_TRY(blob_use(w, ref.file, &use, err));
    use->rows++;
    use->bytes += lk_blob_ref_bytes(&ref);
done:
    return st;
}

/* The values are on the disk before the table that refers to them is. */
static lk_status apart_finish(lk_table_writer *w, lk_error *err)
{
    if (w->apart == NULL) return LK_OK;
    lk_blob_use *own = (lk_blob_use *)(uintptr_t)lk_table_meta_blob(&w->meta, w->meta.file);
    lk_status st = lk_blob_writer_finish(w->apart, err);
    own->size = lk_blob_writer_bytes(w->apart);
    return st;
}

static lk_status add_rows(lk_table_writer *w, const lk_row *rows, size_t count, lk_error *err)
{
    enum { AHEAD = 8 }; /* keys and values lie about in a segment: fetched before their turn */
    lk_status st = LK_OK;
    size_t block_bytes = w->options.block_bytes;
    bool has_filter = w->options.filter_bits > 0;
    if (has_filter) LK_TRY(lk_filter_builder_reserve(&w->filter, count, err));
    for (size_t i = 0; i < count; i++) {
        const lk_row *row = &rows[i];
        if (i + AHEAD < count) {
            __builtin_prefetch(rows[i + AHEAD].key);
            __builtin_prefetch(rows[i + AHEAD].value);
        }
        bool is_version = is_version_of_last(w, row);
        LK_ASSERT(is_in_order(w, row, is_version));
        if (!is_version) {
            if (lk_block_writer_raw_bytes(&w->block) >= block_bytes) LK_TRY(close_block(w, err));
            if (has_filter) lk_filter_builder_add(&w->filter, row->hash);
            w->last_hash = row->hash;
        }
        lk_row apart;
        if (LK_UNLIKELY(row->value_len > w->inline_max || lk_kind_is_blob(row->kind))) {
            LK_TRY(put_apart(w, row, &apart, err));
            row = &apart;
        }
        LK_TRY(lk_block_writer_add(&w->block, row, is_version, err));
    }
done:
    return st;
}

lk_status lk_table_writer_add(lk_table_writer *w, const lk_row *rows, size_t count, lk_error *err)
{
    LK_ASSERT(!w->is_finished && !w->is_sealed);
    if (w->failed != LK_OK) return refuse(w, err);
    lk_status st = note(w, add_rows(w, rows, count, err));
    hold(w, writer_memory(w));
    return st;
}

/* ---- whole blocks ---- */

/* The filter's share of a copied block: its keys, hashed as they stand on disk. Leaves the last
 * key in `scratch`. */
static lk_status hash_keys(lk_table_writer *w, const lk_block_image *image, uint8_t *scratch,
                           lk_bytes *out_last, lk_error *err)
{
    if (w->options.filter_bits == 0) {
        (void)lk_block_image_key(image, 0, scratch);
        *out_last = lk_block_image_key(image, image->rows - 1, scratch);
        return LK_OK;
    }
    lk_status st = lk_filter_builder_reserve(&w->filter, image->rows, err);
    if (st != LK_OK) return st;
    for (uint32_t i = 0; i < image->rows; i++) {
        *out_last = lk_block_image_key(image, i, scratch);
        uint64_t hash = lk_hash_key(w->meta.tree, out_last->data, out_last->len);
        /* Versions of a key stand together; a hash that is equal by chance is in the filter. */
        if (hash != w->last_hash || i == 0) lk_filter_builder_add(&w->filter, hash);
        w->last_hash = hash;
    }
    return LK_OK;
}

/* Rows that only a merge of rows can fold, or count. */
static bool has_specials(const lk_block_image *image)
{
    bool any = false;
    for (uint32_t i = 0; image->kinds != NULL && i < image->rows; i++) {
        any |= image->kinds[i] != LK_KIND_PUT && image->kinds[i] != LK_KIND_DELETE;
    }
    return any;
}

static lk_status add_block(lk_table_writer *w, lk_table *from, uint32_t index, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_table_parts *parts = lk_table_parts_of(from);
    uint64_t offset;
    uint32_t bytes, rows;
    uint8_t scratch[LK_KEY_BYTES_MAX];
    lk_block_image image;
    lk_block_source source;
    lk_bytes last = {NULL, 0};
    LK_TRY(close_block(w, err));
    lk_table_parts_place(parts, index, &offset, &bytes, &rows);
    LK_TRY(reserve_out(w, bytes, err));
    uint8_t *at = w->out + w->out_len;
    LK_TRY(lk_table_parts_image(parts, index, at, &image, &source, err));
    if (has_specials(&image)) {
        return lk_fail(err, LK_INVALID, 0, source.path, source.offset, 0, 0,
                       "the block at %llu has rows that are not plain, and is not copied",
                       (unsigned long long)source.offset);
    }
    lk_bytes first = lk_block_image_key(&image, 0, scratch);
    if (w->index.rows > 0 && lk_key_compare(w->last_key, w->last_len, first.data, first.len) >= 0) {
        return lk_fail_corrupt(err, source.path, source.offset, 0, 0,
                               "the block at %llu does not follow the rows before it",
                               (unsigned long long)source.offset);
    }
    LK_TRY(set_min_key(w, first, err));
    LK_TRY(hash_keys(w, &image, scratch, &last, err));
    note_rows(w, image.rows, image.tombstones, lk_block_image_raw_bytes(&image), image.seq_min,
              image.seq_max);
    if (source.seq_base != 0) lk_block_add_seq_base(at, source.seq_base);
    lk_store64(at, lk_hash_bytes(w->meta.nonce, w->written + w->out_len, at + 8, bytes - 8));
    set_last_key(w, last);
    LK_TRY(take_block(w, bytes, image.rows, err));
done:
    return st;
}

lk_status lk_table_writer_add_block(lk_table_writer *w, lk_table *from, uint32_t index,
                                    lk_error *err)
{
    LK_ASSERT(!w->is_finished && lk_table_meta_of(from)->tree == w->meta.tree);
    if (w->failed != LK_OK) return refuse(w, err);
    lk_status st = note(w, add_block(w, from, index, err));
    hold(w, writer_memory(w));
    return st;
}

/* ---- the end of the file ---- */

static lk_table_place place_next(const lk_table_writer *w, size_t bytes)
{
    return (lk_table_place){w->written + w->out_len, bytes};
}

static lk_status put_filter(lk_table_writer *w, lk_table_footer *footer, lk_error *err)
{
    lk_status st = LK_OK;
    size_t bytes = w->options.filter_bits == 0
                       ? 0
                       : (size_t)lk_filter_bytes(w->filter.count, w->options.filter_bits);
    /* What waits goes out, so that the filter's lines are lines of the cache as well. */
    LK_TRY(write_out(w, w->out_len, err));
    LK_TRY(reserve_out(w, bytes, err));
    footer->filter = place_next(w, bytes);
    if (bytes > 0) {
        lk_filter_builder_finish(&w->filter, w->options.filter_bits, w->meta.nonce, w->written,
                                 w->out);
    }
    w->out_len += bytes;
done:
    return st;
}

static lk_status put_block(lk_table_writer *w, lk_block_writer *rows, lk_table_place *out,
                           lk_error *err)
{
    lk_status st = reserve_out(w, lk_block_writer_bound(rows), err);
    if (st != LK_OK) return st;
    uint64_t offset = w->written + w->out_len;
    size_t bytes = lk_block_writer_finish(rows, w->meta.nonce, offset, w->out + w->out_len);
    *out = place_next(w, bytes);
    w->out_len += bytes;
    return LK_OK;
}

/* `blobs` are the encoded uses. */
static lk_table_properties properties_of(const lk_table_writer *w, const uint8_t *blobs)
{
    return (lk_table_properties){
        .file = w->meta.file,
        .rows = w->rows,
        .tombstones = w->meta.tombstones,
        .operands = w->meta.operands,
        .deadlines = w->meta.deadlines,
        .deadline_min = w->meta.deadline_min,
        .deadline_max = w->meta.deadline_max,
        .raw_bytes = w->meta.raw_bytes,
        .seq_base = w->seq_base,
        .seq_min = w->meta.seq_min,
        .seq_max = w->meta.seq_max,
        .blocks = w->blocks,
        .tree = w->meta.tree,
        .block_bytes = w->options.block_bytes,
        .filter_bits = w->options.filter_bits,
        .codec = w->options.codec,
        .uses = {blobs, w->meta.blob_count * (size_t)LK_BLOB_USE_BYTES},
        .min_key = {w->meta.min_key, w->meta.min_len},
        .max_key = {w->last_key, w->last_len},
    };
}

/* All but properties and footer. */
static lk_status put_parts(lk_table_writer *w, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(apart_finish(w, err));
    LK_TRY(close_block(w, err));
    if (w->rows == 0) {
        return lk_fail(err, LK_INVALID, 0, w->path, 0, 1, 0, "a table must have rows");
    }
    w->meta.max_key = malloc(w->last_len > 0 ? w->last_len : 1);
    if (w->meta.max_key == NULL) return lk_fail_nomem(err, w->last_len);
    if (w->last_len > 0) memcpy(w->meta.max_key, w->last_key, w->last_len);
    w->meta.max_len = w->last_len;
    w->footer = (lk_table_footer){.nonce = w->meta.nonce, .file = w->meta.file};
    w->blocks = w->index.rows;
    LK_TRY(put_filter(w, &w->footer, err));
    LK_TRY(put_block(w, &w->index, &w->footer.index, err));
    w->is_sealed = true;
done:
    return st;
}

static lk_status put_end(lk_table_writer *w, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t *uses = malloc(w->meta.blob_count * (size_t)LK_BLOB_USE_BYTES + 1);
    if (uses == NULL) return lk_fail_nomem(err, w->meta.blob_count * (size_t)LK_BLOB_USE_BYTES);
    for (uint32_t i = 0; i < w->meta.blob_count; i++) {
        lk_blob_use_encode(&w->meta.blobs[i], uses + i * (size_t)LK_BLOB_USE_BYTES);
    }
    lk_table_properties props = properties_of(w, uses);
    LK_TRY(lk_table_properties_add(&props, &w->index, err));
    LK_TRY(put_block(w, &w->index, &w->footer.properties, err));
    LK_TRY(reserve_out(w, LK_TABLE_FOOTER_BYTES, err));
    w->footer.bytes = w->written + w->out_len + LK_TABLE_FOOTER_BYTES;
    lk_table_footer_encode(&w->footer, w->out + w->out_len);
    w->out_len += LK_TABLE_FOOTER_BYTES;
    LK_TRY(write_out(w, w->out_len, err));
    w->meta.bytes = w->footer.bytes;
    w->meta.rows = w->rows;
done:
    free(uses);
    return st;
}

/* What is left to be written needs little: hundreds of tables may wait for their end. */
static lk_status rest(lk_table_writer *w, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(write_out(w, w->out_len, err));
    LK_TRY(lk_file_sync(w->file, err));
    lk_file_close(w->file);
    w->file = NULL;
    free(w->out);
    w->out = NULL;
    w->out_capacity = 0;
    lk_block_writer_deinit(&w->block);
    lk_block_writer_deinit(&w->index);
    lk_filter_builder_deinit(&w->filter);
    LK_TRY(lk_block_writer_init(&w->index, LK_CODEC_NONE, err));
done:
    return st;
}

lk_status lk_table_writer_seal(lk_table_writer *w, lk_error *err)
{
    LK_ASSERT(!w->is_finished && !w->is_sealed);
    if (w->failed != LK_OK) return refuse(w, err);
    lk_status st = put_parts(w, err);
    return note(w, st == LK_OK ? rest(w, err) : st);
}

bool lk_table_writer_is_sealed(const lk_table_writer *w) { return w->is_sealed; }

void lk_table_writer_set_seq(lk_table_writer *w, uint64_t seq)
{
    LK_ASSERT(w->is_sealed && !w->is_finished && w->meta.seq_max == 0);
    w->seq_base = w->meta.seq_min = w->meta.seq_max = seq;
}

/* `out_file` NULL: the file is synced and closed. */
static lk_status finish(lk_table_writer *w, lk_table_meta *out, lk_file **out_file, lk_error *err)
{
    lk_status st = LK_OK;
    if (!w->is_sealed) LK_TRY(put_parts(w, err));
    if (w->file == NULL) LK_TRY(lk_env_open(w->env, w->path, LK_OPEN_WRITE, &w->file, err));
    LK_TRY(put_end(w, err));
    if (out_file != NULL) {
        lk_file_writeback(w->file, w->written_back, w->written - w->written_back);
        *out_file = w->file;
    } else {
        LK_TRY(lk_file_sync(w->file, err));
        lk_file_close(w->file);
    }
    w->file = NULL;
    w->is_finished = true;
    *out = w->meta; /* its keys and uses move to the caller */
    w->meta.min_key = w->meta.max_key = NULL;
    w->meta.blobs = NULL;
    w->meta.blob_count = w->blob_capacity = 0;
done:
    return st;
}

lk_status lk_table_writer_finish(lk_table_writer *w, lk_table_meta *out, lk_error *err)
{
    LK_ASSERT(!w->is_finished);
    *out = (lk_table_meta){.file = 0};
    if (w->failed != LK_OK) return refuse(w, err);
    return note(w, finish(w, out, NULL, err));
}

lk_status lk_table_writer_hand_over(lk_table_writer *w, lk_table_meta *out, lk_file **out_file,
                                    lk_error *err)
{
    LK_ASSERT(!w->is_finished);
    *out = (lk_table_meta){.file = 0};
    *out_file = NULL;
    if (w->failed != LK_OK) return refuse(w, err);
    return note(w, finish(w, out, out_file, err));
}

uint64_t lk_table_writer_bytes(const lk_table_writer *w)
{
    return w->written + w->out_len + lk_block_writer_raw_bytes(&w->block) +
           lk_block_writer_raw_bytes(&w->index) +
           (uint64_t)w->filter.count * w->options.filter_bits / 8 + LK_TABLE_FOOTER_BYTES +
           (w->apart == NULL ? 0 : lk_blob_writer_bytes(w->apart));
}

uint64_t lk_table_writer_rows(const lk_table_writer *w) { return w->rows + w->block.rows; }
