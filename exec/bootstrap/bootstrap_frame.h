/* bootstrap_frame: what goes over a connection of the TCP meeting: frames of a kind and some bytes,
 * read as they arrive, so that one thread can wait for many connections at once.
 *
 * A frame is 16 bytes of head (the word "hlmp", the kind, the number of bytes; in the byte order of
 * the machine) and its bytes. */
#ifndef HLM_EXEC_BOOTSTRAP_FRAME_H
#define HLM_EXEC_BOOTSTRAP_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define HLM_FRAME_MAP(X)                                                                           \
    X(HELLO, "hello")     /* struct hlm_hello, from a rank that comes */                           \
    X(WELCOME, "welcome") /* all have come; empty */                                               \
    X(DATA, "data")                                                                                \
    X(FAILURE, "failure") /* struct hlm_frame_failure; nothing comes after it */
enum hlm_frame_kind {
#define X(name, text) HLM_FRAME_##name,
    HLM_FRAME_MAP(X)
#undef X
        HLM_NUM_FRAME_KINDS
};

struct hlm_frame_failure {
    int32_t status;
    char text[sizeof(((struct hlm_err *)NULL)->text)];
};

/* A frame that is arriving; zeros at first. */
struct hlm_frame {
    unsigned char head[16];
    size_t got; /* of head and data together */
    enum hlm_frame_kind kind;
    size_t bytes;
    unsigned char *data; /* [bytes], freed by hlm_frame_release */
};

/* What has come of it now; does not block. BROKEN: the connection has ended, or what comes is no
 * frame, or one of more than max_bytes. */
enum hlm_frame_state { HLM_FRAME_PARTIAL, HLM_FRAME_WHOLE, HLM_FRAME_BROKEN };
enum hlm_frame_state hlm_frame_read(int fd, struct hlm_frame *frame, size_t max_bytes);

/* Ready for the next one. */
void hlm_frame_release(struct hlm_frame *frame);

/* Sends all of it. False: the other side has gone, or takes nothing until deadline_s. */
bool hlm_frame_send(int fd, enum hlm_frame_kind kind, const void *data, size_t bytes,
                    double deadline_s);
bool hlm_frame_send_failure(int fd, const struct hlm_err *failure, double deadline_s);

/* The failure that a frame of that kind tells; returns its status. */
enum hlm_status hlm_frame_failure(const struct hlm_frame *frame, struct hlm_err *err);

double hlm_frame_clock_s(void); /* CLOCK_MONOTONIC */
/* For poll: the rest of the time until deadline_s, at least 0 and at most a second. */
int hlm_frame_wait_ms(double deadline_s);

#endif
