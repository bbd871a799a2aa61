#include "base/log.h"

#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "base/fmt.h"

static const double silent_s = 2, terminal_pause_s = 0.1, plain_pause_s = 10;

static const char *level_text(enum hlm_log_level level)
{
    switch (level) {
#define LEVEL_CASE(name, text)                                                                     \
    case HLM_LOG_##name:                                                                           \
        return text;
        HLM_LOG_MAP(LEVEL_CASE)
#undef LEVEL_CASE
    }
    return "log";
}

void hlm_log(const struct hlm_log *log, enum hlm_log_level level, const char *format, ...)
{
    if (level > log->level) {
        return;
    }
    /* One write per line, so that the lines of several ranks do not mix. */
    char message[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fprintf(log->out, "hlmplan: %s: %s\n", level_text(level), message);
    fflush(log->out);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void hlm_progress_begin(struct hlm_progress *progress, FILE *out, const char *what)
{
    *progress = (struct hlm_progress){.out = out, .what = what, .start_s = now_s()};
    progress->terminal = isatty(fileno(out)) == 1;
}

void hlm_progress_update(struct hlm_progress *progress, double done, double total,
                         const char *detail)
{
    const double now = now_s();
    const double pause = progress->terminal ? terminal_pause_s : plain_pause_s;
    const bool due =
        progress->shown ? now - progress->last_s >= pause : now - progress->start_s >= silent_s;
    if (!due) {
        return;
    }
    fprintf(progress->out, "%s%s: %s", progress->terminal ? "\r\033[K" : "", progress->what,
            hlm_fmt_count(done).text);
    if (total > 0) {
        fprintf(progress->out, " of %s (%.0f %%)", hlm_fmt_count(total).text, 100 * done / total);
    }
    fprintf(progress->out, "%s%s%s", detail == NULL ? "" : ", ", detail == NULL ? "" : detail,
            progress->terminal ? "" : "\n");
    fflush(progress->out);
    progress->shown = true;
    progress->last_s = now;
}

void hlm_progress_end(struct hlm_progress *progress)
{
    if (progress->shown && progress->terminal) {
        fputs("\r\033[K", progress->out);
        fflush(progress->out);
    }
}
