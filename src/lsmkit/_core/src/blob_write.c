/* blob_write.c: writing a file of values; see blob.h.
 *
 * Owns      the file until it is finished, and a buffer; a value that is large goes to the file from
 *           where it stands.
 * Threads   a writer belongs to one.
 * Always    records begin at multiples of 8; `written` + `out_len` is where the next one will stand,
 *           which its checksums are seeded with.
 * Errors    see blob.h.
 */
#include <stdlib.h>

#include "blob.h"
#include "check.h"
#include "hash.h"

enum {
    OUT_BYTES = 256 << 10,
    DIRECT_BYTES = 128 << 10,  /* values from here on are not copied */
    WRITEBACK_BYTES = 4 << 20, /* handed to the disk early, so that the sync at the end is short */
    SCRATCH_BYTES_KEPT = 4 << 20,
    GAIN_SHARE = 16, /* compressed values are kept when they save 1/16: else reading is dearer */
};

struct lk_blob_writer {
    lk_env *env;
    lk_limiter *limiter;
    const atomic_bool *cancel;
    lk_compressor compressor;
    char *path;
    lk_file *file;
    bool was_made;
    uint64_t number, nonce;
    uint8_t *out;
    size_t out_len;
    uint64_t written, written_back;
    uint8_t *scratch; /* of compressed values */
    size_t scratch_bytes;
};

static lk_status create_file(lk_blob_writer *w, lk_error *err)
{
    int flags = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_EXCLUSIVE;
    lk_status st = lk_env_open(w->env, w->path, flags, &w->file, err);
    if (st != LK_EXISTS) return st;
    /* As for a table: another name of the file may be part of a checkpoint. */
    st = lk_env_unlink(w->env, w->path, err);
    return st == LK_OK ? lk_env_open(w->env, w->path, flags, &w->file, err) : st;
}

static void put_header(lk_blob_writer *w)
{
    uint8_t *out = w->out;
    memcpy(out, "lsmk-blb", 8);
    lk_store32(out + 8, LK_BLOB_VERSION);
    lk_store32(out + 12, (uint32_t)w->compressor.codec);
    lk_store64(out + 16, w->number);
    lk_store64(out + 24, w->nonce);
    lk_store64(out + 32, lk_hash_bytes(w->nonce, 0, out, 32));
    w->out_len = LK_BLOB_HEADER_BYTES;
}

lk_status lk_blob_writer_new(lk_env *env, const char *dir, uint64_t file, lk_codec codec,
                             lk_limiter *limiter, const atomic_bool *cancel, lk_blob_writer **out,
                             lk_error *err)
{
    lk_status st = LK_OK;
    size_t path_bytes = strlen(dir) + 32;
    *out = NULL;
    lk_blob_writer *w = calloc(1, sizeof *w);
    if (w == NULL) return lk_fail_nomem(err, sizeof *w);
    w->env = env;
    w->limiter = limiter;
    w->cancel = cancel;
    w->number = file;
    lk_env_random(env, &w->nonce, sizeof w->nonce);
    w->path = malloc(path_bytes);
    w->out = malloc(OUT_BYTES);
    if (w->path == NULL || w->out == NULL) {
        st = lk_fail_nomem(err, path_bytes + OUT_BYTES);
        goto done;
    }
    lk_blob_path(dir, file, w->path, path_bytes);
    LK_TRY(lk_compressor_init(&w->compressor, codec, err));
    LK_TRY(create_file(w, err));
    w->was_made = true;
    put_header(w);
    *out = w;
    w = NULL;
done:
    lk_blob_writer_free(w, false);
    return st;
}

void lk_blob_writer_free(lk_blob_writer *w, bool keep)
{
    if (w == NULL) return;
    lk_file_close(w->file);
    /* The error that led here is what the caller hears; the file is under no published name. */
    if (w->was_made && !keep) (void)lk_env_unlink(w->env, w->path, NULL);
    lk_compressor_deinit(&w->compressor);
    free(w->scratch);
    free(w->out);
    free(w->path);
    free(w);
}

static lk_status write_bytes(lk_blob_writer *w, const uint8_t *data, size_t bytes, lk_error *err)
{
    if (bytes == 0) return LK_OK;
    if (w->limiter != NULL) lk_limiter_take(w->limiter, bytes, w->cancel);
    if (w->cancel != NULL && atomic_load_explicit(w->cancel, memory_order_relaxed)) {
        return lk_fail(err, LK_CANCELLED, 0, w->path, w->written, 0, 0,
                       "writing the values was cancelled");
    }
    lk_status st = lk_file_write(w->file, w->written, data, bytes, err);
    if (st != LK_OK) return st;
    w->written += bytes;
    if (w->written - w->written_back >= WRITEBACK_BYTES) {
        lk_file_writeback(w->file, w->written_back, w->written - w->written_back);
        w->written_back = w->written;
    }
    return LK_OK;
}

static lk_status write_out(lk_blob_writer *w, lk_error *err)
{
    lk_status st = write_bytes(w, w->out, w->out_len, err);
    if (st == LK_OK) w->out_len = 0;
    return st;
}

/* The value as it will be stored: compressed, where that gains something. */
static lk_status compress(lk_blob_writer *w, lk_bytes *value, lk_error *err)
{
    if (w->compressor.codec == LK_CODEC_NONE || value->len == 0) return LK_OK;
    size_t bound = lk_codec_bound(w->compressor.codec, value->len);
    if (bound > w->scratch_bytes || w->scratch_bytes > SCRATCH_BYTES_KEPT) {
        free(w->scratch);
        w->scratch_bytes = 0;
        w->scratch = malloc(bound);
        if (w->scratch == NULL) return lk_fail_nomem(err, bound);
        w->scratch_bytes = bound;
    }
    size_t n = lk_compressor_run(&w->compressor, value->data, value->len, w->scratch, bound);
    if (n > 0 && n <= value->len - value->len / GAIN_SHARE - 1) {
        *value = (lk_bytes){w->scratch, n};
    }
    return LK_OK;
}

lk_status lk_blob_writer_add(lk_blob_writer *w, uint64_t key_hash, lk_bytes value, lk_blob_ref *out,
                             lk_error *err)
{
    static const uint8_t zeros[8];
    lk_status st = LK_OK;
    size_t raw = value.len;
    LK_ASSERT(raw <= LK_VALUE_BYTES_MAX && w->file != NULL);
    LK_TRY(compress(w, &value, err));
    size_t pad = (size_t)lk_align_up(value.len, 8) - value.len;
    bool direct = value.len >= DIRECT_BYTES;
    size_t need = LK_BLOB_RECORD_BYTES + (direct ? 0 : value.len) + pad;
    if (w->out_len + need > OUT_BYTES) LK_TRY(write_out(w, err));
    uint64_t offset = w->written + w->out_len;
    uint8_t *head = w->out + w->out_len;
    LK_ASSERT(offset % 8 == 0);
    lk_store64(head + 8,
               lk_hash_bytes(w->nonce, offset + LK_BLOB_RECORD_BYTES, value.data, value.len));
    lk_store64(head + 16, key_hash);
    lk_store32(head + 24, (uint32_t)value.len);
    lk_store32(head + 28, (uint32_t)raw);
    lk_store64(head, lk_hash_bytes(w->nonce, offset, head + 8, LK_BLOB_RECORD_BYTES - 8));
    *out = (lk_blob_ref){.file = w->number,
                         .offset = offset,
                         .checksum = lk_load64(head),
                         .stored = (uint32_t)value.len,
                         .raw = (uint32_t)raw};
    w->out_len += LK_BLOB_RECORD_BYTES;
    if (direct) {
        LK_TRY(write_out(w, err));
        LK_TRY(write_bytes(w, value.data, value.len, err));
    } else {
        if (value.len > 0) memcpy(w->out + w->out_len, value.data, value.len);
        w->out_len += value.len;
    }
    memcpy(w->out + w->out_len, zeros, pad);
    w->out_len += pad;
done:
    return st;
}

size_t lk_blob_writer_memory(const lk_blob_writer *w)
{
    return sizeof *w + (w->out == NULL ? 0 : OUT_BYTES) + w->scratch_bytes;
}

uint64_t lk_blob_writer_bytes(const lk_blob_writer *w) { return w->written + w->out_len; }

lk_status lk_blob_writer_finish(lk_blob_writer *w, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(write_out(w, err));
    LK_TRY(lk_file_sync(w->file, err));
    lk_file_close(w->file);
    w->file = NULL;
    free(w->out);
    free(w->scratch);
    w->out = w->scratch = NULL;
    w->scratch_bytes = 0;
    lk_compressor_deinit(&w->compressor);
done:
    return st;
}
