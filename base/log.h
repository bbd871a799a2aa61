/* log: the chatter on stderr. stdout is only for answers. No function here can fail; a message is
 * one line. The level is passed in a struct by the caller (no global): commands make one and hand
 * it down. */
#ifndef HLM_BASE_LOG_H
#define HLM_BASE_LOG_H

#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"

#define HLM_LOG_MAP(X) X(ERROR, "error") X(WARN, "warning") X(INFO, "info") X(DEBUG, "debug")
enum hlm_log_level {
#define HLM_LOG_ENUM(name, text) HLM_LOG_##name,
    HLM_LOG_MAP(HLM_LOG_ENUM)
#undef HLM_LOG_ENUM
};

struct hlm_log {
    FILE *out;
    enum hlm_log_level level; /* messages above it are dropped */
};
void hlm_log(const struct hlm_log *log, enum hlm_log_level level, const char *format, ...)
    HLM_PRINTF(3, 4);

/* Progress of something that may take more than two seconds: silent before that, then a line that
 * is rewritten in place on a terminal (at most ten times a second), or a plain line every ten
 * seconds elsewhere. `total` 0: unknown. */
struct hlm_progress {
    FILE *out;
    const char *what;
    double start_s, last_s;
    bool shown, terminal;
};
void hlm_progress_begin(struct hlm_progress *progress, FILE *out, const char *what);
void hlm_progress_update(struct hlm_progress *progress, double done, double total,
                         const char *detail);
void hlm_progress_end(struct hlm_progress *progress); /* clears the line */

#endif
