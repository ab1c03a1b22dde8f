/* btree_file.c: reading and writing the pages of a B+tree; see btree_file.h. */
#include "btree_file.h"

#include <stdlib.h>

#include "check.h"
#include "hash.h"

#define MAGIC UINT32_C(0x7462736C) /* "lsbt" */
#define HEAD_SEED UINT64_C(0x62747265655F6864)
enum { AT_STAMP = 24, HEAD_HASHED = LK_BTREE_HEAD_BYTES - 8 };

void lk_btree_head_write(const lk_btree_head *h, uint8_t *out)
{
    memset(out, 0, LK_BTREE_HEAD_BYTES);
    lk_store32(out, MAGIC);
    lk_store32(out + 4, LK_BTREE_VERSION);
    lk_store32(out + 8, h->page_bytes);
    lk_store32(out + 12, h->pages);
    lk_store32(out + 16, h->root);
    lk_store32(out + 20, h->levels);
    lk_store32(out + 24, h->free_page);
    lk_store32(out + 28, h->free_count);
    lk_store64(out + 32, h->nonce);
    lk_store64(out + 40, h->checkpoint);
    lk_store64(out + 48, h->log);
    lk_store64(out + 56, h->rows);
    lk_store64(out + 64, h->free_hash);
    lk_store32(out + 72, h->free_pages);
    lk_store64(out + HEAD_HASHED, lk_hash_bytes(HEAD_SEED, 0, out, HEAD_HASHED));
}

lk_status lk_btree_head_parse(const uint8_t *bytes, const char *path, lk_btree_head *out,
                              lk_error *err)
{
    memset(out, 0, sizeof *out);
    uint64_t hash = lk_hash_bytes(HEAD_SEED, 0, bytes, HEAD_HASHED);
    uint64_t found = lk_load64(bytes + HEAD_HASHED);
    uint32_t version = lk_load32(bytes + 4);
    if (lk_load32(bytes) != MAGIC || hash != found) {
        return lk_fail_corrupt(err, path, 0, hash, found, "%s: the head of the tree is damaged",
                               path);
    }
    if (version != LK_BTREE_VERSION) {
        return lk_fail(err, LK_UNSUPPORTED, 0, path, 4, LK_BTREE_VERSION, version,
                       "%s: a tree of version %u; this program reads version %u", path, version,
                       LK_BTREE_VERSION);
    }
    out->page_bytes = lk_load32(bytes + 8);
    out->pages = lk_load32(bytes + 12);
    out->root = lk_load32(bytes + 16);
    out->levels = lk_load32(bytes + 20);
    out->free_page = lk_load32(bytes + 24);
    out->free_count = lk_load32(bytes + 28);
    out->nonce = lk_load64(bytes + 32);
    out->checkpoint = lk_load64(bytes + 40);
    out->log = lk_load64(bytes + 48);
    out->rows = lk_load64(bytes + 56);
    out->free_hash = lk_load64(bytes + 64);
    out->free_pages = lk_load32(bytes + 72);
    uint32_t n = out->page_bytes;
    if (n < LK_BTREE_PAGE_MIN || n > LK_BTREE_PAGE_MAX || (n & (n - 1)) != 0 || out->pages == 0 ||
        out->root >= out->pages || out->free_page >= out->pages ||
        out->free_pages > out->pages - out->free_page ||
        (uint64_t)out->free_count * 8 > (uint64_t)out->free_pages * n ||
        out->levels >= LK_BTREE_LEVELS_MAX) {
        return lk_fail_corrupt(err, path, 8, LK_BTREE_PAGE_MIN, n,
                               "%s: the head of the tree has a number that cannot be", path);
    }
    return LK_OK;
}

/* ---- pages ---- */

static uint64_t offset_of(const lk_btree_file *f, uint32_t page)
{
    return (uint64_t)page * f->page_bytes;
}

void lk_page_seal(const lk_btree_file *f, uint32_t page, uint64_t checkpoint, uint8_t *p)
{
    lk_store32(p + AT_STAMP, (uint32_t)checkpoint);
    lk_store64(p, lk_hash_bytes(f->nonce, offset_of(f, page), p + 8, f->page_bytes - 8));
}

lk_status lk_page_prove(const lk_btree_file *f, uint32_t page, uint64_t checkpoint,
                        const uint8_t *p, lk_error *err)
{
    const char *path = lk_file_path(f->file);
    uint64_t offset = offset_of(f, page), found = lk_load64(p);
    uint64_t hash = lk_hash_bytes(f->nonce, offset, p + 8, f->page_bytes - 8);
    if (hash != found) {
        return lk_fail_corrupt(err, path, offset, hash, found,
                               "%s: the page at byte %llu is not what was written", path,
                               (unsigned long long)offset);
    }
    uint32_t stamp = lk_load32(p + AT_STAMP);
    if ((int32_t)((uint32_t)checkpoint - stamp) < 0) {
        return lk_fail_corrupt(err, path, offset, checkpoint, stamp,
                               "%s: the page at byte %llu is of a checkpoint that is not known",
                               path, (unsigned long long)offset);
    }
    return lk_page_check(p, f->page_bytes, path, offset, err);
}

lk_status lk_page_read(const lk_btree_file *f, uint32_t page, uint64_t checkpoint, uint8_t *out,
                       lk_error *err)
{
    lk_status st = lk_file_read_exact(f->file, offset_of(f, page), out, f->page_bytes, err);
    return st == LK_OK ? lk_page_prove(f, page, checkpoint, out, err) : st;
}

/* ---- extents ---- */

lk_status lk_extent_write(const lk_btree_file *f, uint32_t page, const uint8_t *data, size_t bytes,
                          lk_ref *out, lk_error *err)
{
    out->page = page;
    out->hash = lk_hash_bytes(f->nonce, offset_of(f, page), data, bytes);
    return lk_file_write(f->file, offset_of(f, page), data, bytes, err);
}

lk_status lk_extent_read(const lk_btree_file *f, lk_ref ref, uint8_t *out, size_t bytes,
                         lk_error *err)
{
    uint64_t offset = offset_of(f, ref.page);
    lk_status st = lk_file_read_exact(f->file, offset, out, bytes, err);
    if (st != LK_OK) return st;
    uint64_t hash = lk_hash_bytes(f->nonce, offset, out, bytes);
    if (hash == ref.hash) return LK_OK;
    const char *path = lk_file_path(f->file);
    return lk_fail_corrupt(err, path, offset, ref.hash, hash,
                           "%s: the bytes at %llu are not what was written", path,
                           (unsigned long long)offset);
}

/* ---- keys ---- */

lk_status lk_cell_key(const lk_btree_file *f, const lk_cell *cell, uint8_t *out, lk_error *err)
{
    if (cell->key_len > lk_page_key_max(f->page_bytes)) {
        return lk_extent_read(f, lk_ref_load(cell->tail), out, cell->key_len, err);
    }
    if (cell->prefix_len != 0) memcpy(out, cell->prefix, cell->prefix_len);
    if (cell->suffix_len != 0) memcpy(out + cell->prefix_len, cell->suffix, cell->suffix_len);
    return LK_OK;
}

lk_status lk_cell_compare(const lk_btree_file *f, lk_bytes key, const lk_cell *cell, int *out,
                          lk_error *err)
{
    LK_ASSERT(cell->key_len > 0);
    *out = 0;
    uint8_t *whole = malloc(cell->key_len);
    if (whole == NULL) return lk_fail_nomem(err, cell->key_len);
    lk_status st = lk_cell_key(f, cell, whole, err);
    if (st == LK_OK) *out = lk_key_compare(key.data, key.len, whole, cell->key_len);
    free(whole);
    return st;
}

lk_status lk_page_find(const lk_btree_file *f, const uint8_t *p, lk_bytes key, uint32_t *out_slot,
                       bool *out_found, lk_error *err)
{
    uint32_t low = 0, high = lk_page_count(p);
    for (;;) {
        lk_page_answer answer = lk_page_search(p, f->page_bytes, key, low, high, out_slot);
        *out_found = answer == LK_PAGE_FOUND;
        if (LK_LIKELY(answer != LK_PAGE_TIE)) return LK_OK;
        int c;
        lk_cell cell = lk_page_cell(p, f->page_bytes, *out_slot);
        lk_status st = lk_cell_compare(f, key, &cell, &c, err);
        if (st != LK_OK) return st;
        if (c == 0) {
            *out_found = true;
            return LK_OK;
        }
        if (c < 0) {
            high = *out_slot;
        } else {
            low = *out_slot + 1;
        }
    }
}
