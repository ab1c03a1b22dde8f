/* Any bytes as a table file, with checksums that hold wherever a place can be made out: loading,
 * seeking, finding, verifying and dumping end, with right answers or an error. */
#include <stdint.h>
#include <stdlib.h>

#include "env_sim.h"
#include "hash.h"
#include "table.h"
#include "table_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void seal(uint8_t *data, size_t bytes, uint64_t nonce, uint64_t at, uint64_t n)
{
    if (n < 8 || at > bytes || n > bytes - at) return;
    lk_store64(data + at, lk_hash_bytes(nonce, at, data + at + 8, n - 8));
}

/* Data blocks tell their own length. */
static void seal_blocks(uint8_t *data, size_t bytes, uint64_t nonce, uint64_t end)
{
    uint64_t at = 0;
    while (at < end && end <= bytes && end - at >= LK_BLOCK_HEADER_BYTES) {
        uint32_t n = lk_load32(data + at + 8);
        if (n < LK_BLOCK_HEADER_BYTES || n > end - at) return;
        seal(data, bytes, nonce, at, n);
        at += n;
    }
}

/* Makes all checksums hold; false where not even a footer can be made out. */
static bool seal_table(uint8_t *data, size_t bytes, lk_table_footer *out)
{
    if (bytes < LK_TABLE_FOOTER_BYTES) return false;
    uint64_t at = bytes - LK_TABLE_FOOTER_BYTES;
    uint8_t *footer = data + at;
    uint64_t nonce = lk_load64(footer + 16);
    seal(data, bytes, nonce, lk_load64(footer + 40), lk_load64(footer + 48));
    seal(data, bytes, nonce, lk_load64(footer + 56), lk_load64(footer + 64));
    seal(data, bytes, nonce, lk_load64(footer + 72), lk_load64(footer + 80));
    seal_blocks(data, bytes, nonce, lk_load64(footer + 40));
    lk_store64(footer + 120, lk_hash_bytes(nonce, at, footer, 120));
    return lk_table_footer_parse(footer, "fuzz", at, out, NULL) == LK_OK;
}

/* What a manifest would say of this file, from its properties. `*out_block` keeps the keys. */
static bool meta_of(const uint8_t *data, const lk_table_footer *footer, lk_table_meta *out,
                    lk_block **out_block)
{
    lk_block_image image;
    lk_table_properties props;
    lk_block_source source = {
        .path = "fuzz", .nonce = footer->nonce, .offset = footer->properties.offset};
    if (lk_block_parse(data + source.offset, footer->properties.bytes, &source, &image, NULL) !=
            LK_OK ||
        lk_block_decode(&image, &source, out_block, NULL) != LK_OK ||
        lk_table_properties_parse(*out_block, &source, &props, NULL) != LK_OK ||
        props.file != footer->file) {
        return false;
    }
    *out = (lk_table_meta){
        .file = footer->file,
        .nonce = footer->nonce,
        .bytes = footer->bytes,
        .rows = props.rows,
        .tombstones = props.tombstones,
        .operands = props.operands,
        .deadlines = props.deadlines,
        .deadline_min = props.deadline_min,
        .deadline_max = props.deadline_max,
        .raw_bytes = props.raw_bytes,
        .seq_min = props.seq_min,
        .seq_max = props.seq_max,
        .tree = props.tree,
        .min_len = (uint32_t)props.min_key.len,
        .max_len = (uint32_t)props.max_key.len,
        .min_key = (uint8_t *)(uintptr_t)props.min_key.data,
        .max_key = (uint8_t *)(uintptr_t)props.max_key.data,
    };
    return true;
}

static void ignore_line(void *context, const char *line) { *(size_t *)context += strlen(line); }

static void ask(lk_table *t, const lk_table_meta *meta)
{
    lk_table_report report;
    lk_hit hit;
    size_t printed = 0;
    (void)lk_table_verify(t, &report, NULL);
    if (lk_table_load(t, NULL) != LK_OK) return;
    (void)lk_table_seek(t, meta->max_key, meta->max_len);
    for (uint32_t i = 0; i < lk_table_block_count(t); i++) {
        lk_block *b;
        if (lk_table_block(t, i, true, &b, NULL) != LK_OK) continue;
        for (uint32_t row = 0; row < b->rows && row < 16; row++) {
            lk_bytes key = lk_block_key(b, row);
            uint64_t hash = lk_hash_key(meta->tree, key.data, key.len);
            (void)lk_table_find(t, key.data, key.len, hash, LK_SEQ_MAX, &hit);
            lk_find result = LK_FIND_ABSENT;
            lk_table_find_many(t, 1, &key, &hash, LK_SEQ_MAX, &result, &hit);
        }
        lk_block_unref(b);
    }
    (void)lk_table_dump(t, true, ignore_line, &printed, NULL);
}

static bool put_file(lk_env *env, uint64_t number, const uint8_t *data, size_t bytes)
{
    char path[64];
    lk_file *file = NULL;
    lk_table_path("/s", number, path, sizeof path);
    int flags = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_TRUNCATE;
    if (lk_env_mkdir(env, "/s", NULL, NULL) != LK_OK) return false;
    bool done = lk_env_open(env, path, flags, &file, NULL) == LK_OK &&
                lk_file_write(file, 0, data, bytes, NULL) == LK_OK;
    lk_file_close(file);
    return done;
}

static void run(uint8_t *data, size_t bytes)
{
    lk_guard guard;
    lk_cache *cache = NULL;
    lk_table *t = NULL;
    lk_block *keys = NULL;
    lk_table_footer footer;
    lk_table_meta meta;
    lk_sim *sim = lk_sim_new(1);
    lk_guard_init(&guard);
    if (sim != NULL && seal_table(data, bytes, &footer) && meta_of(data, &footer, &meta, &keys) &&
        put_file(lk_sim_env(sim), footer.file, data, bytes) &&
        lk_cache_new(1 << 20, &guard, &cache, NULL) == LK_OK &&
        lk_table_new(lk_sim_env(sim), "/s", &meta, cache, &t, NULL) == LK_OK) {
        ask(t, &meta);
    }
    lk_table_unref(t);
    lk_block_unref(keys);
    lk_cache_free(cache);
    lk_guard_deinit(&guard);
    lk_sim_free(sim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes + 1);
    if (copy == NULL) return -1;
    memcpy(copy, data, bytes);
    run(copy, bytes);
    free(copy);
    return 0;
}
