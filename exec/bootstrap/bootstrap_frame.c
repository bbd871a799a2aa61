#include "exec/bootstrap/bootstrap_frame.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static const char word[4] = {'h', 'l', 'm', 'p'};

double hlm_frame_clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int hlm_frame_wait_ms(double deadline_s)
{
    const double left_s = deadline_s - hlm_frame_clock_s();
    return left_s <= 0 ? 0 : left_s > 1 ? 1000 : (int)(1000 * left_s) + 1;
}

/* ---- reading ---- */

/* Of the head: the kind and the number of bytes. */
static bool parse_head(struct hlm_frame *frame, size_t max_bytes)
{
    uint32_t kind = 0;
    uint64_t bytes = 0;
    memcpy(&kind, frame->head + 4, sizeof kind);
    memcpy(&bytes, frame->head + 8, sizeof bytes);
    if (memcmp(frame->head, word, sizeof word) != 0 || kind >= HLM_NUM_FRAME_KINDS ||
        bytes > max_bytes) {
        return false;
    }
    frame->kind = (enum hlm_frame_kind)kind;
    frame->bytes = (size_t)bytes;
    frame->data = malloc(frame->bytes + 1); /* + 1: of zero bytes too */
    return frame->data != NULL;
}

enum hlm_frame_state hlm_frame_read(int fd, struct hlm_frame *frame, size_t max_bytes)
{
    const size_t head = sizeof frame->head;
    for (;;) {
        if (frame->got >= head && frame->data == NULL && !parse_head(frame, max_bytes)) {
            return HLM_FRAME_BROKEN;
        }
        if (frame->got >= head && frame->got - head == frame->bytes) {
            return HLM_FRAME_WHOLE;
        }
        const bool in_head = frame->got < head;
        unsigned char *place =
            in_head ? frame->head + frame->got : frame->data + (frame->got - head);
        const size_t wanted = in_head ? head - frame->got : frame->bytes - (frame->got - head);
        const ssize_t n = recv(fd, place, wanted, MSG_DONTWAIT);
        if (n > 0) {
            frame->got += (size_t)n;
        } else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) {
            return HLM_FRAME_BROKEN;
        } else if (errno != EINTR) {
            return HLM_FRAME_PARTIAL;
        }
    }
}

void hlm_frame_release(struct hlm_frame *frame)
{
    free(frame->data);
    *frame = (struct hlm_frame){.got = 0};
}

enum hlm_status hlm_frame_failure(const struct hlm_frame *frame, struct hlm_err *err)
{
    struct hlm_frame_failure failure = {.status = HLM_FAILED};
    if (frame->bytes == sizeof failure) {
        memcpy(&failure, frame->data, sizeof failure);
        failure.text[sizeof failure.text - 1] = '\0';
    }
    const bool known = failure.status > HLM_OK && failure.status <= HLM_FAILED;
    return hlm_fail(err, known ? (enum hlm_status)failure.status : HLM_FAILED, "%s", failure.text);
}

/* ---- sending ---- */

static bool send_all(int fd, const void *data, size_t bytes, double deadline_s)
{
    const unsigned char *place = data;
    while (bytes > 0) {
        const ssize_t n = send(fd, place, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            place += n;
            bytes -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            const int wait_ms = hlm_frame_wait_ms(deadline_s);
            if (wait_ms == 0) {
                return false;
            }
            poll(&writable, 1, wait_ms);
        } else if (n < 0 && errno != EINTR) {
            return false;
        }
    }
    return true;
}

bool hlm_frame_send(int fd, enum hlm_frame_kind kind, const void *data, size_t bytes,
                    double deadline_s)
{
    unsigned char head[16];
    const uint32_t kind_number = (uint32_t)kind;
    const uint64_t bytes_number = bytes;
    memcpy(head, word, sizeof word);
    memcpy(head + 4, &kind_number, sizeof kind_number);
    memcpy(head + 8, &bytes_number, sizeof bytes_number);
    return send_all(fd, head, sizeof head, deadline_s) && send_all(fd, data, bytes, deadline_s);
}

bool hlm_frame_send_failure(int fd, const struct hlm_err *failure, double deadline_s)
{
    struct hlm_frame_failure frame = {.status = (int32_t)failure->status};
    snprintf(frame.text, sizeof frame.text, "%s", failure->text);
    return hlm_frame_send(fd, HLM_FRAME_FAILURE, &frame, sizeof frame, deadline_s);
}
