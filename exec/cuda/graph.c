/* Graphs: what one thread puts on a queue's stream while it is captured. The capture is that of the
 * calling thread alone (thread-local mode), so that other ranks of the process go on. */
#include <stdlib.h>
#include <string.h>

#include "exec/cuda/host.h"

enum hlm_status hlm_cuda_note(struct hlm_queue *queue, enum hlm_status status,
                              const struct hlm_err *err)
{
    if (status != HLM_OK && queue->graph != NULL && queue->captured == HLM_OK) {
        queue->captured = status;
        queue->captured_err = *err;
    }
    return status;
}

enum hlm_status hlm_cuda_outside_capture(struct hlm_queue *queue, const char *what,
                                         struct hlm_err *err)
{
    if (queue->graph == NULL) {
        return HLM_OK;
    }
    return hlm_cuda_note(queue, hlm_fail(err, HLM_FAILED, "%s inside a capture", what), err);
}

void hlm_cuda_graph_free(struct hlm_graph *graph)
{
    if (graph == NULL) {
        return;
    }
    graph->queue->num_graphs--;
    if (graph->graph != NULL) {
        cudaGraphExecDestroy(graph->graph);
    }
    cudaFree(graph->varying);
    free(graph);
}

static enum hlm_status graph_new(struct hlm_queue *queue, struct hlm_graph **out,
                                 struct hlm_err *err)
{
    struct hlm_graph *graph = calloc(1, sizeof *graph);
    if (graph == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for a graph");
    }
    graph->queue = queue;
    queue->num_graphs++;
    void *varying = NULL;
    const enum hlm_status status =
        hlm_cuda_alloc(&queue->backend->base, (int64_t)sizeof *graph->varying, &varying, err);
    if (status != HLM_OK) {
        hlm_cuda_graph_free(graph);
        return status;
    }
    graph->varying = varying;
    *out = graph;
    return HLM_OK;
}

enum hlm_status hlm_cuda_capture_begin(struct hlm_queue *queue, struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(queue, "a capture", err));
    struct hlm_graph *graph = NULL;
    HLM_TRY(graph_new(queue, &graph, err));
    const enum hlm_status status = hlm_cuda_check(
        cudaStreamBeginCapture(queue->stream, cudaStreamCaptureModeThreadLocal), "a capture", err);
    if (status != HLM_OK) {
        hlm_cuda_graph_free(graph);
        return status;
    }
    queue->graph = graph;
    queue->captured = HLM_OK;
    return HLM_OK;
}

static enum hlm_status instantiate(struct hlm_queue *queue, struct hlm_graph *graph,
                                   struct hlm_err *err)
{
    cudaGraph_t recorded = NULL;
    const cudaError_t ended = cudaStreamEndCapture(queue->stream, &recorded);
    enum hlm_status status = queue->captured;
    if (status != HLM_OK) {
        *err = queue->captured_err;
        (void)cudaGetLastError();
    } else {
        status = hlm_cuda_check(ended, "ending a capture", err);
    }
    if (status == HLM_OK) {
        status = hlm_cuda_check(cudaGraphInstantiate(&graph->graph, recorded, 0),
                                "making a graph ready", err);
    }
    if (recorded != NULL) {
        cudaGraphDestroy(recorded);
    }
    return status;
}

enum hlm_status hlm_cuda_capture_end(struct hlm_queue *queue, struct hlm_graph **out,
                                     struct hlm_err *err)
{
    struct hlm_graph *graph = queue->graph;
    HLM_ASSERT(graph != NULL);
    const enum hlm_status status = instantiate(queue, graph, err);
    queue->graph = NULL;
    if (status != HLM_OK) {
        hlm_cuda_graph_free(graph);
        return status;
    }
    *out = graph;
    return HLM_OK;
}

/* Uploads the scalars unless they stand there already. */
static enum hlm_status set_scalars(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                   struct hlm_err *err)
{
    HLM_ASSERT(scalars != NULL);
    const struct hlm_cuda_varying now = {scalars->loss_scale, scalars->learning_rate,
                                         scalars->grad_scale, (double)scalars->step};
    if (graph->has_last && memcmp(&graph->last, &now, sizeof now) == 0) {
        return HLM_OK;
    }
    HLM_TRY(hlm_cuda_staging_upload(&graph->queue->staging, graph->queue->stream, graph->varying,
                                    &now, (int64_t)sizeof now, err));
    graph->last = now;
    graph->has_last = true;
    return HLM_OK;
}

enum hlm_status hlm_cuda_graph_launch(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                      struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_outside_capture(graph->queue, "another graph", err));
    if (graph->needs_scalars) {
        HLM_TRY(set_scalars(graph, scalars, err));
    }
    return hlm_cuda_check(cudaGraphLaunch(graph->graph, graph->queue->stream), "running a graph",
                          err);
}
