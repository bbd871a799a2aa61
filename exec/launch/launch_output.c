/* What the processes of a run write, and what can be read from it about their ends. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/launch/launch_child.h"

enum { NUM_LAST_LINES = 4 };

static void keep_tail(struct hlm_child *child, const char *bytes, size_t length)
{
    if (length > HLM_CHILD_TAIL) {
        bytes += length - HLM_CHILD_TAIL;
        length = HLM_CHILD_TAIL;
    }
    const size_t room = HLM_CHILD_TAIL - child->tail_length;
    if (length > room) {
        const size_t dropped = length - room;
        memmove(child->tail, child->tail + dropped, child->tail_length - dropped);
        child->tail_length -= dropped;
    }
    memcpy(child->tail + child->tail_length, bytes, length);
    child->tail_length += length;
    child->tail[child->tail_length] = '\0';
}

void hlm_child_read(struct hlm_child *child)
{
    char bytes[4096];
    while (child->output >= 0) {
        const ssize_t n = read(child->output, bytes, sizeof bytes);
        if (n > 0) {
            keep_tail(child, bytes, (size_t)n);
        } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        } else {
            close(child->output);
            child->output = -1;
        }
    }
}

/* Whether text begins with what mpirun draws around its explanations. */
static bool is_frame(const char *line)
{
    return strncmp(line, "----------", 10) == 0 || strncmp(line, "==========", 10) == 0;
}

static bool is_blank(const char *line)
{
    return line[strspn(line, " \t\r")] == '\0';
}

static const char *join_lines(const char *const *lines, size_t first, size_t count,
                              struct hlm_arena *arena)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (size_t i = 0; i < count; i++) {
        hlm_text_printf(&text, "%s%s", i > 0 ? " | " : "", lines[(first + i) % NUM_LAST_LINES]);
    }
    return text.text;
}

const char *hlm_child_last_lines(const struct hlm_child *child, struct hlm_arena *arena,
                                 bool of_mpirun_too)
{
    const char *lines[NUM_LAST_LINES], *framed[NUM_LAST_LINES];
    size_t num_lines = 0, num_framed = 0;
    bool inside = false;
    char *state = NULL;
    for (char *line = strtok_r(hlm_arena_strdup(arena, child->tail), "\n", &state); line != NULL;
         line = strtok_r(NULL, "\n", &state)) {
        if (child->is_mpirun && is_frame(line)) {
            inside = !inside;
        } else if (is_blank(line)) {
            continue;
        } else if (!inside) {
            lines[num_lines++ % NUM_LAST_LINES] = line;
        } else if (num_framed < NUM_LAST_LINES) {
            framed[num_framed++] = line; /* the first ones: an explanation begins with its point */
        }
    }
    if (num_lines == 0) {
        return join_lines(framed, 0, of_mpirun_too ? num_framed : 0, arena);
    }
    const size_t count = num_lines < NUM_LAST_LINES ? num_lines : NUM_LAST_LINES;
    return join_lines(lines, (num_lines - count) % NUM_LAST_LINES, count, arena);
}

static const char *signal_text(struct hlm_arena *arena, int number)
{
    return hlm_arena_printf(arena, "was killed by signal %d (%s)", number, strsignal(number));
}

const char *hlm_child_end_text(struct hlm_arena *arena, int wait_status)
{
    return WIFSIGNALED(wait_status)
               ? signal_text(arena, WTERMSIG(wait_status))
               : hlm_arena_printf(arena, "ended with exit code %d", WEXITSTATUS(wait_status));
}

/* "mpirun noticed that process rank 1 with PID 0 on node x exited on signal 9 (Killed)." */
static int32_t signalled_rank(const char *tail, int *out_signal)
{
    static const char of_rank[] = "process rank ", on_signal[] = "exited on signal ";
    const char *rank = strstr(tail, of_rank);
    const char *number = rank != NULL ? strstr(rank, on_signal) : NULL;
    if (number == NULL) {
        return -1;
    }
    *out_signal = (int)strtol(number + sizeof on_signal - 1, NULL, 10);
    return (int32_t)strtol(rank + sizeof of_rank - 1, NULL, 10);
}

/* "Process name: [[13,1],2]" and, in the next line, "Exit code:    3". */
static int32_t exited_rank(const char *tail, int *out_code)
{
    static const char name[] = "Process name: [[", code[] = "Exit code:";
    const char *place = strstr(tail, name);
    const char *comma = place != NULL ? strstr(place, "],") : NULL;
    const char *number = comma != NULL ? strstr(comma, code) : NULL;
    if (number == NULL) {
        return -1;
    }
    *out_code = (int)strtol(number + sizeof code - 1, NULL, 10);
    return (int32_t)strtol(comma + 2, NULL, 10);
}

int32_t hlm_child_culprit(const struct hlm_child *child, struct hlm_arena *arena,
                          const char **out_how, int *out_exit_code)
{
    int number = 0;
    int32_t rank = signalled_rank(child->tail, &number);
    if (rank >= 0) {
        *out_how = signal_text(arena, number);
        *out_exit_code = 0;
        return rank;
    }
    rank = exited_rank(child->tail, &number);
    if (rank >= 0) {
        *out_how = hlm_arena_printf(arena, "ended with exit code %d", number);
        *out_exit_code = number;
    }
    return rank;
}
