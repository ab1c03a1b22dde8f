/* repair.h: a store made usable again from what its files prove.
 *
 * With a manifest that can be read: tables that are damaged are replaced by what their whole blocks
 * hold, and a log that recovery refuses by its whole frames. Without one: every table of the directory
 * and every whole frame of the log, in the order of their sequences; so values that were overwritten
 * or deleted may come back. A store in which nothing is wrong is not touched.
 *
 * Owns      the directory's lock, for the time of the call.
 * Always    new files are on the disk before CURRENT names the new manifest, and only then is what is
 *           not used moved to lost/: a repair that is broken off can be begun again.
 */
#ifndef LK_REPAIR_H
#define LK_REPAIR_H

#include "env.h"
#include "status.h"

typedef struct lk_repair_report {
    bool changed;       /* something was wrong */
    bool rebuilt;       /* there was no manifest to go by */
    uint64_t tables;    /* of the store as it is now */
    uint64_t salvaged;  /* damaged tables of which some blocks were kept */
    uint64_t lost;      /* tables of which nothing was kept, missing ones included */
    uint64_t rows_kept; /* of salvaged tables */
    uint64_t blocks_lost;
    uint64_t values_lost; /* rows whose values, which stood apart, are lost */
    uint64_t records;     /* that the log gave */
    uint64_t log_lost;    /* bytes of it that are no whole frames */
    uint64_t moved;       /* files in lost/ */
} lk_repair_report;

/* `note` gets a line for each thing that was found or done. LK_NOT_FOUND where no file proves that there
 * was a store, LK_LOCKED while it is open. */
lk_status lk_store_repair(lk_env *env, const char *dir,
                          void (*note)(void *context, const char *line), void *context,
                          lk_repair_report *out, lk_error *err);

#endif
