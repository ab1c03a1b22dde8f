/* frame.c: the bytes of segment headers and frames: their checksums, and reading them back.
 *
 * Frame, little-endian (FORMAT.md, "Log", is the authority):
 *   0        4         8             12      16          20            24          24+length
 *   +--------+---------+-------------+-------+-----------+-------------+-----------+-------+
 *   | length | ordinal | synced upto | link  | body hash | header hash | records   | pad 8 |
 *   +--------+---------+-------------+-------+-----------+-------------+-----------+-------+
 */
#include "frame.h"

#include "check.h"

#define MAGIC UINT32_C(0x676C736C) /* "lslg" */
#define HEADER_SEED UINT64_C(0x6C6F675F68656164)
#define BOOT_SEED UINT64_C(0x626F6F745F696421)
#define FLAG_MARKED 1u

_Static_assert(LK_SEGMENT_HEADER_BYTES == 64, "a header is one piece that no disk tears");

uint64_t lk_boot_number(lk_env *env)
{
    uint8_t id[16];
    lk_env_boot_id(env, id);
    if (lk_load64(id) == 0 && lk_load64(id + 8) == 0) return 0;
    return lk_hash_bytes(BOOT_SEED, 0, id, sizeof id);
}

uint32_t lk_segment_header_write(const lk_segment_header *h, uint8_t *out)
{
    memset(out, 0, LK_SEGMENT_HEADER_BYTES);
    lk_store32(out, MAGIC);
    lk_store16(out + 4, LK_LOG_VERSION);
    lk_store16(out + 6, h->marked ? FLAG_MARKED : 0);
    lk_store64(out + 8, h->generation);
    lk_store64(out + 16, h->nonce);
    lk_store64(out + 24, h->base_seq);
    lk_store64(out + 32, h->boot);
    lk_store32(out + 40, h->capacity);
    lk_store32(out + 44, h->previous_end);
    lk_store32(out + 48, h->previous_link);
    uint64_t hash = lk_hash_bytes(HEADER_SEED, 0, out, 56);
    lk_store64(out + 56, hash);
    return (uint32_t)hash;
}

bool lk_segment_header_is_blank(const uint8_t *bytes)
{
    for (size_t i = 0; i < LK_SEGMENT_HEADER_BYTES; i += 8) {
        if (lk_load64(bytes + i) != 0) return false;
    }
    return true;
}

lk_status lk_segment_header_parse(const uint8_t *bytes, const char *path, lk_segment_header *out,
                                  lk_error *err)
{
    memset(out, 0, sizeof *out);
    uint64_t hash = lk_hash_bytes(HEADER_SEED, 0, bytes, 56), found = lk_load64(bytes + 56);
    uint32_t version = lk_load16(bytes + 4), flags = lk_load16(bytes + 6);
    if (lk_load32(bytes) != MAGIC || found != hash) {
        return lk_fail_corrupt(err, path, 0, hash, found,
                               "%s: the header of the log segment is damaged", path);
    }
    if (version != LK_LOG_VERSION || (flags & ~FLAG_MARKED) != 0) {
        return lk_fail(err, LK_UNSUPPORTED, 0, path, 4, LK_LOG_VERSION, version,
                       "%s: a log of version %u (flags %x); this program reads version %u", path,
                       version, flags, LK_LOG_VERSION);
    }
    out->marked = (flags & FLAG_MARKED) != 0;
    out->generation = lk_load64(bytes + 8);
    out->nonce = lk_load64(bytes + 16);
    out->base_seq = lk_load64(bytes + 24);
    out->boot = lk_load64(bytes + 32);
    out->capacity = lk_load32(bytes + 40);
    out->previous_end = lk_load32(bytes + 44);
    out->previous_link = lk_load32(bytes + 48);
    out->link = (uint32_t)hash;
    if (out->capacity < LK_SEGMENT_HEADER_BYTES || out->capacity > LK_SEGMENT_BYTES_MAX) {
        return lk_fail_corrupt(err, path, 40, LK_SEGMENT_BYTES_MAX, out->capacity,
                               "%s: a log segment of %u bytes", path, out->capacity);
    }
    return LK_OK;
}

bool lk_frame_header_parse(const uint8_t *base, uint32_t end, uint64_t nonce, uint32_t offset,
                           lk_frame *out)
{
    memset(out, 0, sizeof *out);
    if (offset > end || end - offset < LK_FRAME_HEADER_BYTES + LK_RECORD_HEADER_BYTES) return false;
    const uint8_t *p = base + offset;
    uint32_t length = lk_load32(p);
    if (length < LK_RECORD_HEADER_BYTES || length > end - offset - LK_FRAME_HEADER_BYTES) {
        return false;
    }
    uint64_t w0 = lk_load64(p), w1 = lk_load64(p + 8);
    uint32_t body = lk_load32(p + 16);
    if (lk_load32(p + 20) != lk_frame_header_hash(lk_frame_seed(nonce, offset), w0, w1, body)) {
        return false;
    }
    out->offset = offset;
    out->length = length;
    out->ordinal = (uint32_t)(w0 >> 32);
    out->synced_upto = (uint32_t)w1 * 8;
    out->link = (uint32_t)(w1 >> 32);
    out->body_expected = body;
    out->own_hash = lk_load32(p + 20);
    /* No writer knows of bytes behind its own place that they are durable, so this is chance. */
    return (uint32_t)w1 <= offset / 8;
}

bool lk_frame_header_is_next(const uint8_t *bytes, size_t n, uint64_t nonce, uint32_t offset,
                             uint32_t link, uint32_t ordinal)
{
    if (n < LK_FRAME_HEADER_BYTES) return false;
    uint64_t w0 = lk_load64(bytes), w1 = lk_load64(bytes + 8);
    uint32_t body = lk_load32(bytes + 16);
    return (uint32_t)(w0 >> 32) == ordinal && (uint32_t)(w1 >> 32) == link &&
           lk_load32(bytes + 20) ==
               lk_frame_header_hash(lk_frame_seed(nonce, offset), w0, w1, body);
}

/* Whether a whole record begins at p, with `left` bytes before the end of the body. */
static bool record_fits(const uint8_t *p, uint32_t left, uint32_t *out_bytes)
{
    if (left < LK_RECORD_HEADER_BYTES) return false;
    uint64_t head = lk_load64(p);
    uint32_t kind = (uint32_t)(head >> 16 & 0xFF), flags = (uint32_t)(head >> 24 & 0xFF);
    if (!lk_kind_is_logged(kind) || (flags & ~LK_RECORD_FLAGS) != 0) return false;
    if (head >> 32 < lk_kind_head_bytes((lk_kind)kind)) return false;
    uint64_t bytes = LK_RECORD_HEADER_BYTES + ((flags & LK_RECORD_TREE) != 0 ? 4 : 0) +
                     (head & 0xFFFF) + (head >> 32);
    uint64_t value_max = kind == LK_KIND_DELETE_RANGE ? LK_KEY_BYTES_MAX : LK_STORED_BYTES_MAX;
    if (bytes > left || head >> 32 > value_max) return false;
    /* Tree 0 has one form alone, so that a record's length follows from what it says. */
    if ((flags & LK_RECORD_TREE) != 0 && lk_load32(p + LK_RECORD_HEADER_BYTES) == 0) return false;
    *out_bytes = (uint32_t)bytes;
    return true;
}

static inline lk_frame_state frame_read(const uint8_t *base, uint32_t end, uint64_t nonce,
                                        uint32_t offset, uint32_t *tags, lk_entry *entries,
                                        lk_frame *out)
{
    if (!lk_frame_header_parse(base, end, nonce, offset, out)) return LK_FRAME_NONE;
    uint64_t sum = 0;
    uint32_t at = offset + LK_FRAME_HEADER_BYTES, stop = at + out->length, bytes;
    while (at < stop) {
        if (!record_fits(base + at, stop - at, &bytes)) return LK_FRAME_BROKEN;
        lk_record r = lk_record_at(base + at);
        uint64_t hash = lk_hash_key(r.tree, r.key, r.key_len);
        sum += lk_record_hash(&r, hash, nonce, at);
        if (tags != NULL) {
            tags[out->records] = lk_index_tag(hash);
            entries[out->records].location = at;
        }
        at += bytes;
        out->records++;
        out->tombs += r.kind == LK_KIND_DELETE_RANGE;
    }
    out->body_found = lk_frame_body_hash(sum);
    return out->body_found == out->body_expected ? LK_FRAME_WHOLE : LK_FRAME_BROKEN;
}

lk_frame_state lk_frame_parse(const uint8_t *base, uint32_t end, uint64_t nonce, uint32_t offset,
                              lk_frame *out)
{
    return frame_read(base, end, nonce, offset, NULL, NULL, out);
}

lk_frame_state lk_frame_read(const uint8_t *base, uint32_t end, uint64_t nonce, uint32_t offset,
                             uint32_t *tags, lk_entry *entries, lk_frame *out)
{
    return frame_read(base, end, nonce, offset, tags, entries, out);
}

lk_status lk_segment_verify(const lk_segment *s, uint32_t records, uint64_t *out_bytes,
                            lk_error *err)
{
    uint32_t at = LK_SEGMENT_HEADER_BYTES, ordinal = 0;
    uint64_t bytes = 0;
    lk_frame frame;
    while (ordinal < records) {
        lk_frame_state state = lk_frame_parse(s->base, s->capacity, s->nonce, at, &frame);
        uint32_t page = (uint32_t)lk_align_up(at, LK_PAGE_BYTES);
        if ((state == LK_FRAME_NONE || frame.ordinal != ordinal) && page != at) {
            at = page; /* a sync begins a new page */
            state = lk_frame_parse(s->base, s->capacity, s->nonce, at, &frame);
        }
        if (state != LK_FRAME_WHOLE || frame.ordinal != ordinal) {
            const char *path = lk_file_path(s->file);
            return lk_fail_corrupt(err, path, at, frame.body_expected, frame.body_found,
                                   "%s: the frame at byte %u is not what was written", path, at);
        }
        ordinal += frame.records;
        at += (uint32_t)lk_frame_bytes(frame.length);
        bytes += lk_frame_bytes(frame.length);
    }
    if (out_bytes != NULL) *out_bytes = bytes;
    return LK_OK;
}
