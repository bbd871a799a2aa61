/* launch_peer: one connection of a rank as the launcher sees it: cutting what arrives into lines,
 * and what the lines say. */
#ifndef HLM_EXEC_LAUNCH_PEER_H
#define HLM_EXEC_LAUNCH_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "exec/launch/control.h"

#define HLM_PEER_STATE_MAP(X)                                                                      \
    X(ABSENT, "not connected")                                                                     \
    X(ALIVE, "running")                                                                            \
    X(DONE, "done") X(REPORTED, "reported a failure") X(GONE, "left without a word")
enum hlm_peer_state {
#define X(name, text) HLM_PEER_##name,
    HLM_PEER_STATE_MAP(X)
#undef X
};

/* A rank of the run; ABSENT until its hello. Times are of the launcher's clock, in seconds. */
struct hlm_peer {
    enum hlm_peer_state state;
    int fd;       /* -1: none */
    int32_t rank; /* -1 before hello */
    pid_t pid;
    char host[256], what[512]; /* what it does: "step 3, 0F1, all_reduce over tp" */
    uint64_t counter;
    bool waiting;
    double connected_s, beat_s, progress_s;
    char buffer[HLM_CONTROL_LINE];
    size_t used;
};

/* One line, cut: kind and the texts after it; numbers are parsed. */
struct hlm_peer_line {
    enum hlm_control_message kind;
    const char *word, *text; /* hello: word, host; beat: what; progress, error: text */
    int32_t rank;
    pid_t pid;
    uint64_t counter;
    bool waiting;
    int64_t time_ns;
    enum hlm_status status;
};

/* Reads what has arrived. False at the end of the connection (lines that came before it can still
 * be taken). Does not block. */
bool hlm_peer_read(struct hlm_peer *peer);

/* Takes the next whole line out of the buffer; its texts live in `storage`. 1: there is one; 0:
 * none yet; -1: it is not one of ours (then the connection is not a rank's). */
int hlm_peer_take(struct hlm_peer *peer, char storage[HLM_CONTROL_LINE], struct hlm_peer_line *out);

#endif
