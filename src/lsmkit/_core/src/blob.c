/* blob.c: reading files of values, and lists of them; see blob.h.
 *
 * Threads   `is_loaded` is published with release after what it covers was written; loading is done
 *           under `load_lock`.
 * Always    a record is given out only if its head has the checksum that the reference names, and its
 *           value the one that the head names.
 */
#include "blob.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "hash.h"
#include "lock.h"

enum { WALK_BYTES = 256 << 10 };

static const char MAGIC[8] = {'l', 's', 'm', 'k', '-', 'b', 'l', 'b'};

struct lk_blob_file {
    /* fixed once is_loaded */
    lk_file *file;
    uint64_t nonce, size;
    lk_codec codec;
    /* fixed */
    lk_env *env;
    char *path;
    uint64_t number;
    /* atomic */
    atomic_bool is_loaded;   /* release after loading, acquire by readers */
    atomic_bool is_obsolete; /* read by whoever drops the last reference */
    _Atomic uint32_t refs;
    lk_lock load_lock;
};

/* ---- references and uses ---- */

void lk_blob_ref_encode(const lk_blob_ref *ref, uint8_t out[LK_BLOB_REF_BYTES])
{
    lk_store64(out, ref->file);
    lk_store64(out + 8, ref->offset);
    lk_store64(out + 16, ref->checksum);
    lk_store32(out + 24, ref->stored);
    lk_store32(out + 28, ref->raw);
}

lk_blob_ref lk_blob_ref_decode(const uint8_t bytes[LK_BLOB_REF_BYTES])
{
    return (lk_blob_ref){.file = lk_load64(bytes),
                         .offset = lk_load64(bytes + 8),
                         .checksum = lk_load64(bytes + 16),
                         .stored = lk_load32(bytes + 24),
                         .raw = lk_load32(bytes + 28)};
}

void lk_blob_use_encode(const lk_blob_use *use, uint8_t out[LK_BLOB_USE_BYTES])
{
    lk_store64(out, use->file);
    lk_store64(out + 8, use->size);
    lk_store64(out + 16, use->rows);
    lk_store64(out + 24, use->bytes);
}

lk_blob_use lk_blob_use_decode(const uint8_t bytes[LK_BLOB_USE_BYTES])
{
    return (lk_blob_use){.file = lk_load64(bytes),
                         .size = lk_load64(bytes + 8),
                         .rows = lk_load64(bytes + 16),
                         .bytes = lk_load64(bytes + 24)};
}

void lk_blob_row_take(lk_row *row, lk_bytes value)
{
    uint32_t head = lk_kind_head_bytes(row->kind);
    uint8_t *to = (uint8_t *)(uintptr_t)value.data - head;
    memcpy(to, row->value, head);
    row->value = to;
    row->value_len = (uint32_t)value.len + head;
    row->kind = LK_KIND_PUT | (row->kind & LK_KIND_UNTIL);
}

void lk_blob_path(const char *dir, uint64_t file, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s/%06" PRIu64 ".blob", dir, file);
}

/* ---- files ---- */

lk_status lk_blob_file_new(lk_env *env, const char *dir, uint64_t file, uint64_t size,
                           lk_blob_file **out, lk_error *err)
{
    size_t path_bytes = strlen(dir) + 32;
    *out = NULL;
    lk_blob_file *f = calloc(1, sizeof *f);
    char *path = malloc(path_bytes);
    if (f == NULL || path == NULL) {
        free(f);
        free(path);
        return lk_fail_nomem(err, sizeof *f + path_bytes);
    }
    lk_blob_path(dir, file, path, path_bytes);
    *f = (lk_blob_file){.env = env, .path = path, .number = file, .size = size};
    atomic_init(&f->refs, 1);
    lk_lock_init(&f->load_lock);
    *out = f;
    return LK_OK;
}

void lk_blob_file_ref(lk_blob_file *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
}

void lk_blob_file_unref(lk_blob_file *f)
{
    if (f == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before > 1) return;
    lk_file_close(f->file);
    /* What cannot be unlinked is no part of the store any more; opening it removes such files. */
    if (atomic_load(&f->is_obsolete)) (void)lk_env_unlink(f->env, f->path, NULL);
    lk_lock_deinit(&f->load_lock);
    free(f->path);
    free(f);
}

void lk_blob_file_set_obsolete(lk_blob_file *f) { atomic_store(&f->is_obsolete, true); }
void lk_blob_file_keep(lk_blob_file *f) { atomic_store(&f->is_obsolete, false); }
uint64_t lk_blob_file_number(const lk_blob_file *f) { return f->number; }
uint64_t lk_blob_file_size(const lk_blob_file *f) { return f->size; }

typedef struct header {
    uint64_t file, nonce;
    lk_codec codec;
} header;

static lk_status header_read(lk_file *file, header *out, lk_error *err)
{
    lk_status st = LK_OK;
    const char *path = lk_file_path(file);
    uint8_t data[LK_BLOB_HEADER_BYTES];
    size_t n;
    LK_TRY(lk_file_read(file, 0, data, sizeof data, &n, err));
    if (n < sizeof data || memcmp(data, MAGIC, sizeof MAGIC) != 0) {
        return lk_fail_corrupt(err, path, 0, sizeof data, n, "%s: is no file of values", path);
    }
    uint32_t version = lk_load32(data + 8), codec = lk_load32(data + 12);
    *out = (header){lk_load64(data + 16), lk_load64(data + 24), (lk_codec)codec};
    uint64_t stored = lk_load64(data + 32), computed = lk_hash_bytes(out->nonce, 0, data, 32);
    if (stored != computed) {
        return lk_fail_corrupt(err, path, 0, stored, computed,
                               "the checksum of the header of a file of values does not hold");
    }
    if (version != LK_BLOB_VERSION || codec > LK_CODEC_ZSTD) {
        return lk_fail(err, LK_UNSUPPORTED, 0, path, 8, LK_BLOB_VERSION, version,
                       "the file of values has format version %u; this code reads version %d",
                       version, LK_BLOB_VERSION);
    }
done:
    return st;
}

static lk_status load_locked(lk_blob_file *f, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    uint64_t size;
    header h;
    st = lk_env_open(f->env, f->path, LK_OPEN_READ, &file, err);
    if (st == LK_NOT_FOUND) {
        return lk_fail_corrupt(err, f->path, 0, f->size, 0,
                               "%s: is missing, and tables refer to it", f->path);
    }
    LK_TRY(st);
    LK_TRY(lk_file_size(file, &size, err));
    LK_TRY(header_read(file, &h, err));
    if (h.file != f->number || (f->size != 0 && size != f->size)) {
        st = lk_fail_corrupt(err, f->path, 0, f->size, size,
                             "%s: is not the file of values that tables refer to, or cut short",
                             f->path);
        goto done;
    }
    f->nonce = h.nonce;
    f->codec = h.codec;
    if (f->size == 0) f->size = size;
    f->file = file;
    file = NULL;
    atomic_store_explicit(&f->is_loaded, true, memory_order_release);
done:
    lk_file_close(file);
    return st;
}

lk_status lk_blob_file_load(lk_blob_file *f, lk_error *err)
{
    if (atomic_load_explicit(&f->is_loaded, memory_order_acquire)) return LK_OK;
    lk_lock_acquire(&f->load_lock);
    bool loaded = atomic_load_explicit(&f->is_loaded, memory_order_acquire);
    lk_status st = loaded ? LK_OK : load_locked(f, err);
    lk_lock_release(&f->load_lock);
    return st;
}

lk_status lk_blob_header_check(lk_env *env, const char *path, lk_error *err)
{
    lk_file *file = NULL;
    header h;
    lk_status st = lk_env_open(env, path, LK_OPEN_READ, &file, err);
    if (st == LK_OK) st = header_read(file, &h, err);
    lk_file_close(file);
    return st;
}

/* ---- records ---- */

/* Whether memory may be taken for it: it lies in the file, and no codec makes so much of so little. */
static lk_status ref_check(const lk_blob_file *f, const lk_blob_ref *ref, lk_error *err)
{
    bool good = ref->raw <= LK_VALUE_BYTES_MAX && ref->stored <= ref->raw && ref->offset % 8 == 0 &&
                ref->offset >= LK_BLOB_HEADER_BYTES && ref->offset <= f->size &&
                lk_blob_ref_bytes(ref) <= f->size - ref->offset;
    if (good && ref->stored < ref->raw) {
        good =
            f->codec != LK_CODEC_NONE && ref->raw <= lk_codec_expansion_max(f->codec, ref->stored);
    }
    if (good) return LK_OK;
    return lk_fail_corrupt(err, f->path, ref->offset, f->size, ref->stored,
                           "%s: a table refers to %" PRIu32 " bytes at %" PRIu64
                           ", which are not there",
                           f->path, ref->stored, ref->offset);
}

static lk_status head_check(const lk_blob_file *f, const lk_blob_ref *ref, const uint8_t *head,
                            lk_error *err)
{
    uint64_t stored = lk_load64(head);
    uint64_t computed = lk_hash_bytes(f->nonce, ref->offset, head + 8, LK_BLOB_RECORD_BYTES - 8);
    if (stored == ref->checksum && computed == stored && lk_load32(head + 24) == ref->stored &&
        lk_load32(head + 28) == ref->raw) {
        return LK_OK;
    }
    return lk_fail_corrupt(err, f->path, ref->offset, ref->checksum, computed,
                           "the value at %" PRIu64 " is not the one that a table refers to",
                           ref->offset);
}

static lk_status value_check(const lk_blob_file *f, uint64_t offset, const uint8_t *head,
                             const uint8_t *value, size_t len, lk_error *err)
{
    uint64_t stored = lk_load64(head + 8);
    uint64_t computed = lk_hash_bytes(f->nonce, offset + LK_BLOB_RECORD_BYTES, value, len);
    if (stored == computed) return LK_OK;
    return lk_fail_corrupt(err, f->path, offset, stored, computed,
                           "the checksum of the value at %" PRIu64 " does not hold", offset);
}

lk_status lk_blob_file_room(lk_blob_file *f, const lk_blob_ref *ref, size_t *out, lk_error *err)
{
    lk_status st = lk_blob_file_load(f, err);
    if (st == LK_OK) st = ref_check(f, ref, err);
    *out = LK_BLOB_RECORD_BYTES + (size_t)ref->stored + (ref->stored == ref->raw ? 0 : ref->raw);
    return st;
}

lk_status lk_blob_file_read(lk_blob_file *f, const lk_blob_ref *ref, uint8_t *room, lk_bytes *out,
                            lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t *value = room + LK_BLOB_RECORD_BYTES;
    LK_TRY(lk_blob_file_load(f, err));
    LK_TRY(ref_check(f, ref, err));
    LK_TRY(lk_file_read_exact(f->file, ref->offset, room,
                              LK_BLOB_RECORD_BYTES + (size_t)ref->stored, err));
    LK_TRY(head_check(f, ref, room, err));
    LK_TRY(value_check(f, ref->offset, room, value, ref->stored, err));
    if (ref->stored < ref->raw) {
        uint8_t *raw = value + ref->stored;
        if (!lk_codec_decompress(f->codec, value, ref->stored, raw, ref->raw)) {
            return lk_fail_corrupt(err, f->path, ref->offset, ref->raw, ref->stored,
                                   "the value at %" PRIu64 " does not decompress", ref->offset);
        }
        value = raw;
    }
    *out = (lk_bytes){value, ref->raw};
done:
    return st;
}

lk_status lk_blob_file_check(lk_blob_file *f, const lk_blob_ref *ref, uint64_t key_hash,
                             lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t head[LK_BLOB_RECORD_BYTES];
    LK_TRY(lk_blob_file_load(f, err));
    LK_TRY(ref_check(f, ref, err));
    LK_TRY(lk_file_read_exact(f->file, ref->offset, head, sizeof head, err));
    LK_TRY(head_check(f, ref, head, err));
    if (lk_load64(head + 16) != key_hash) {
        return lk_fail_corrupt(err, f->path, ref->offset + 16, key_hash, lk_load64(head + 16),
                               "the value at %" PRIu64 " is of another key", ref->offset);
    }
done:
    return st;
}

/* One record; `*buffer` has at least WALK_BYTES and grows. */
static lk_status record_verify(const lk_blob_file *f, uint64_t offset, uint8_t **buffer,
                               size_t *capacity, uint64_t *out_bytes, lk_error *err)
{
    lk_status st = LK_OK;
    if (f->size - offset < LK_BLOB_RECORD_BYTES) {
        return lk_fail_corrupt(err, f->path, offset, LK_BLOB_RECORD_BYTES, f->size - offset,
                               "the file of values ends within a record");
    }
    LK_TRY(lk_file_read_exact(f->file, offset, *buffer, LK_BLOB_RECORD_BYTES, err));
    lk_blob_ref ref = {.file = f->number,
                       .offset = offset,
                       .checksum = lk_load64(*buffer),
                       .stored = lk_load32(*buffer + 24),
                       .raw = lk_load32(*buffer + 28)};
    LK_TRY(head_check(f, &ref, *buffer, err));
    LK_TRY(ref_check(f, &ref, err));
    size_t need = (size_t)lk_blob_ref_bytes(&ref);
    if (need > *capacity) {
        uint8_t *larger = realloc(*buffer, need);
        if (larger == NULL) return lk_fail_nomem(err, need);
        *buffer = larger;
        *capacity = need;
    }
    LK_TRY(lk_file_read_exact(f->file, offset, *buffer, need, err));
    LK_TRY(value_check(f, offset, *buffer, *buffer + LK_BLOB_RECORD_BYTES, ref.stored, err));
    *out_bytes = need;
done:
    return st;
}

lk_status lk_blob_dump(lk_env *env, const char *path,
                       void (*print)(void *context, const char *line), void *context, lk_error *err)
{
    lk_status st = LK_OK;
    char line[256];
    header h;
    lk_blob_file f = {.env = env, .path = (char *)(uintptr_t)path};
    size_t capacity = WALK_BYTES;
    uint8_t *buffer = malloc(capacity);
    if (buffer == NULL) return lk_fail_nomem(err, capacity);
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &f.file, err));
    LK_TRY(lk_file_size(f.file, &f.size, err));
    LK_TRY(header_read(f.file, &h, err));
    f.nonce = h.nonce;
    f.codec = h.codec;
    (void)snprintf(line, sizeof line,
                   "values %06" PRIu64 ", format %d, %" PRIu64
                   " bytes, codec %s, nonce %016" PRIx64,
                   h.file, LK_BLOB_VERSION, f.size, lk_codec_name(h.codec), h.nonce);
    print(context, line);
    for (uint64_t at = LK_BLOB_HEADER_BYTES, bytes = 0; at < f.size; at += bytes) {
        LK_TRY(record_verify(&f, at, &buffer, &capacity, &bytes, err));
        (void)snprintf(line, sizeof line,
                       "  at %" PRIu64 ": %" PRIu32 " bytes, stored in %" PRIu32
                       ", of the key with hash %016" PRIx64,
                       at, lk_load32(buffer + 28), lk_load32(buffer + 24), lk_load64(buffer + 16));
        print(context, line);
    }
done:
    lk_file_close(f.file);
    free(buffer);
    return st;
}

lk_status lk_blob_file_verify(lk_blob_file *f, uint64_t *out_records, uint64_t *out_bytes,
                              lk_error *err)
{
    lk_status st = LK_OK;
    /* Anew: what is proved is the file as it stands now. */
    lk_blob_file fresh = {.env = f->env, .path = f->path, .number = f->number, .size = f->size};
    size_t capacity = WALK_BYTES;
    uint8_t *buffer = malloc(capacity);
    *out_records = *out_bytes = 0;
    if (buffer == NULL) return lk_fail_nomem(err, capacity);
    LK_TRY(load_locked(&fresh, err));
    for (uint64_t at = LK_BLOB_HEADER_BYTES, bytes = 0; at < fresh.size; at += bytes) {
        LK_TRY(record_verify(&fresh, at, &buffer, &capacity, &bytes, err));
        (*out_records)++;
    }
    *out_bytes = fresh.size;
done:
    lk_file_close(fresh.file);
    free(buffer);
    return st;
}

/* ---- lists ---- */

lk_blob_files *lk_blob_files_new(uint32_t count)
{
    lk_blob_files *f = calloc(1, sizeof *f + count * sizeof f->items[0]);
    if (f == NULL) return NULL;
    f->count = count;
    return f;
}

void lk_blob_files_free(lk_blob_files *f)
{
    if (f == NULL) return;
    for (uint32_t i = 0; i < f->count; i++) lk_blob_file_unref(f->items[i].file);
    free(f);
}

const lk_blob_item *lk_blob_files_find(const lk_blob_files *f, uint64_t file)
{
    uint32_t low = 0, high = f == NULL ? 0 : f->count, end = high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (f->items[middle].file->number < file) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < end && f->items[low].file->number == file ? &f->items[low] : NULL;
}

bool lk_blob_item_is_wasteful(const lk_blob_item *item, double max_garbage)
{
    uint64_t size = item->file->size - LK_BLOB_HEADER_BYTES;
    return item->bytes < size && (double)(size - item->bytes) > max_garbage * (double)size;
}

lk_status lk_blob_files_room(const lk_blob_files *f, const lk_blob_ref *ref, size_t *out,
                             lk_error *err)
{
    const lk_blob_item *item = lk_blob_files_find(f, ref->file);
    *out = 0;
    if (item == NULL) {
        return lk_fail_corrupt(err, NULL, ref->offset, 0, ref->file,
                               "a table refers to the file of values %" PRIu64
                               ", of which no table of the version says that it uses it",
                               ref->file);
    }
    return lk_blob_file_room(item->file, ref, out, err);
}

lk_status lk_blob_files_read(const lk_blob_files *f, const lk_blob_ref *ref, uint8_t *room,
                             lk_bytes *out, lk_error *err)
{
    return lk_blob_file_read(lk_blob_files_find(f, ref->file)->file, ref, room, out, err);
}
