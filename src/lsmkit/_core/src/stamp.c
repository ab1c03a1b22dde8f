/* stamp.c: see stamp.h. */
#include "stamp.h"

#include "check.h"
#include "segment.h"

static uint64_t ttl_of(const lk_settings *settings, const lk_record *r)
{
    if ((r->kind & LK_KIND_UNTIL) != 0) return lk_kind_deadline(r->kind, r->value);
    return lk_settings_tree(settings, r->tree)->ttl_us;
}

/* Without the time that a batch has in the place of a head; gives that time. */
static uint64_t unpack(const lk_settings *settings, lk_record *r)
{
    uint64_t ttl_us = ttl_of(settings, r);
    uint32_t head = lk_kind_head_bytes(r->kind);
    r->kind &= ~(unsigned)LK_KIND_UNTIL;
    r->value += head;
    r->value_len -= head;
    return ttl_us;
}

uint64_t lk_stamp_bytes(const lk_settings *settings, const uint8_t *records, uint64_t count)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        lk_record r = lk_record_at(records);
        records += lk_record_bytes(r.tree, r.key_len, r.value_len);
        uint64_t ttl_us = unpack(settings, &r);
        bytes += lk_record_bytes(r.tree, r.key_len, r.value_len) +
                 lk_stamp_make(r.kind, ttl_us, 0).head_bytes;
    }
    return bytes;
}

void lk_stamp_records(const lk_settings *settings, const uint8_t *records, uint64_t count,
                      uint64_t now_us, uint8_t *to)
{
    for (uint64_t i = 0; i < count; i++) {
        lk_record r = lk_record_at(records);
        records += lk_record_bytes(r.tree, r.key_len, r.value_len);
        uint64_t ttl_us = unpack(settings, &r);
        lk_stamp s = lk_stamp_make(r.kind, ttl_us, now_us);
        to = lk_record_write_headed(to, r.tree, s.kind, r.key, r.key_len, s.head, s.head_bytes,
                                    r.value, r.value_len);
    }
}
