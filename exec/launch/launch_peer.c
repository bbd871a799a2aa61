#include "exec/launch/launch_peer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bool hlm_peer_read(struct hlm_peer *peer)
{
    while (peer->used < sizeof peer->buffer) {
        const ssize_t n = recv(peer->fd, peer->buffer + peer->used,
                               sizeof peer->buffer - peer->used, MSG_DONTWAIT);
        if (n > 0) {
            peer->used += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        }
    }
    return true;
}

/* The next field up to a space, in place; "" where there is none. */
static char *next_field(char **rest)
{
    char *field = *rest;
    char *end = field + strcspn(field, " ");
    *rest = *end == ' ' ? end + 1 : end;
    *end = '\0';
    return field;
}

static bool read_number(char **rest, int64_t low, int64_t high, int64_t *out)
{
    const char *field = next_field(rest);
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(field, &end, 10);
    *out = value;
    return errno == 0 && *field != '\0' && *end == '\0' && value >= low && value <= high;
}

static bool read_hello(char *rest, struct hlm_peer_line *out)
{
    int64_t rank = 0, pid = 0;
    out->word = next_field(&rest);
    const bool valid =
        read_number(&rest, 0, INT32_MAX, &rank) && read_number(&rest, 1, INT32_MAX, &pid);
    out->rank = (int32_t)rank;
    out->pid = (pid_t)pid;
    out->text = rest;
    return valid;
}

static bool read_beat(char *rest, struct hlm_peer_line *out)
{
    int64_t counter = 0, waiting = 0;
    const bool valid =
        read_number(&rest, 0, INT64_MAX, &counter) && read_number(&rest, 0, 1, &waiting);
    out->counter = (uint64_t)counter;
    out->waiting = waiting == 1;
    out->text = rest;
    return valid;
}

static bool read_error(char *rest, struct hlm_peer_line *out)
{
    int64_t status = 0;
    const bool valid = read_number(&rest, 0, INT64_MAX, &out->time_ns) &&
                       read_number(&rest, HLM_NO, HLM_FAILED, &status);
    out->status = (enum hlm_status)status;
    out->text = rest;
    return valid;
}

static bool read_text(char *rest, struct hlm_peer_line *out)
{
    out->text = rest;
    return true;
}

static bool parse(char *line, struct hlm_peer_line *out)
{
    static const struct {
        const char *word;
        bool (*read)(char *rest, struct hlm_peer_line *out);
    } messages[HLM_CONTROL_NUM_MESSAGES] = {
        [HLM_CONTROL_HELLO] = {"hello", read_hello},
        [HLM_CONTROL_BEAT] = {"beat", read_beat},
        [HLM_CONTROL_PROGRESS] = {"progress", read_text},
        [HLM_CONTROL_ERROR] = {"error", read_error},
        [HLM_CONTROL_DONE] = {"done", read_text},
    };
    const char *word = next_field(&line);
    for (int i = 0; i < HLM_CONTROL_NUM_MESSAGES; i++) {
        if (strcmp(word, messages[i].word) == 0) {
            *out = (struct hlm_peer_line){.kind = (enum hlm_control_message)i};
            return messages[i].read(line, out);
        }
    }
    return false;
}

int hlm_peer_take(struct hlm_peer *peer, char storage[HLM_CONTROL_LINE], struct hlm_peer_line *out)
{
    const char *end = memchr(peer->buffer, '\n', peer->used);
    if (end == NULL) {
        return peer->used < sizeof peer->buffer ? 0 : -1;
    }
    const size_t length = (size_t)(end - peer->buffer);
    memcpy(storage, peer->buffer, length);
    storage[length] = '\0';
    peer->used -= length + 1;
    memmove(peer->buffer, end + 1, peer->used);
    return parse(storage, out) ? 1 : -1;
}
