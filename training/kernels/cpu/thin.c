/* 3x3 convolutions between WIDTH channels and one or three, and the gradients of their weights: as they stand. */
#include <stdlib.h>
#include <string.h>

#include "critic.h"
#include "lanes.h"
#include "pool.h"

enum { TAPS = 9, MOST_THIN = 3, ROWS_A_TASK = 4, PIXELS = SUMS_AT_ONCE > 16 ? 16 : SUMS_AT_ONCE };

typedef float kernel[TAPS][WIDTH];

typedef struct {
    thin x;
    int height, width; /* of the wide map */
    long offsets[MOST_THIN * TAPS];
    kernel weights[MOST_THIN];
    float *wide;
    const float *gradient;
    double *sums; /* [tasks][channels][TAPS][WIDTH] */
} widening;

/* Where a weight of one of x's channels, wide channel c and a tap lies. */
static size_t place(const thin *x, int turned, int channel, int c, int tap)
{
    return turned ? ((size_t)channel * WIDTH + c) * TAPS + TAPS - 1 - tap
                  : ((size_t)c * x->channels + channel) * TAPS + tap;
}

static void prepare(widening *w)
{
    const thin *x = &w->x;
    w->height = x->height - 2;
    w->width = x->width - 2;
    for (int i = 0; i < x->channels * TAPS; i++)
        w->offsets[i] = i / TAPS * x->channel_step + i % TAPS / 3 * x->row_step + i % 3 * x->pixel_step;
}

/* Some pixels of a row, by all taps of all channels. */
static inline __attribute__((always_inline)) void widen_pixels(const widening *w, const int pixels, const float *x,
                                                               float *out)
{
    long step = w->x.pixel_step;
    const float *weights = w->weights[0][0];
    for (int v = 0; v < VECTORS; v++) {
        lanes sum[PIXELS];
        for (int p = 0; p < pixels; p++)
            sum[p] = (lanes){0};
        for (int t = 0; t < w->x.channels * TAPS; t++) {
            lanes weight = at(weights, t, v);
            for (int p = 0; p < pixels; p++)
                sum[p] += x[w->offsets[t] + p * step] * weight;
        }
        for (int p = 0; p < pixels; p++)
            put(out, p, v, sum[p]);
    }
}

static const float *corner(const widening *w, long row)
{
    return w->x.data + row / w->height * w->x.image_step + row % w->height * w->x.row_step;
}

static long last_row(const widening *w, long task)
{
    long rows = (long)w->x.images * w->height, end = (task + 1) * ROWS_A_TASK;
    return end < rows ? end : rows;
}

static void widen_rows(void *context, long task)
{
    const widening *w = context;
    for (long row = task * ROWS_A_TASK; row < last_row(w, task); row++) {
        const float *x = corner(w, row);
        float *out = w->wide + row * w->width * WIDTH;
        int p = 0;
        for (; p + PIXELS <= w->width; p += PIXELS)
            widen_pixels(w, PIXELS, x + p * w->x.pixel_step, out + (size_t)p * WIDTH);
        for (; p < w->width; p++)
            widen_pixels(w, 1, x + p * w->x.pixel_step, out + (size_t)p * WIDTH);
    }
}

void widen(const thin *x, int turned, const float *weights, float *out, int threads)
{
    widening w = {*x};
    prepare(&w);
    w.wide = out;
    for (int channel = 0; channel < x->channels; channel++)
        for (int tap = 0; tap < TAPS; tap++)
            for (int c = 0; c < WIDTH; c++)
                w.weights[channel][tap][c] = weights[place(x, turned, channel, c, tap)];
    share(widen_rows, &w, ((long)x->images * w.height + ROWS_A_TASK - 1) / ROWS_A_TASK, threads);
}

static void correlate_rows(void *context, long task)
{
    const widening *w = context;
    int channels = w->x.channels;
    long step = w->x.pixel_step;
    double *sums = w->sums + (size_t)task * channels * TAPS * WIDTH;
    memset(sums, 0, sizeof *sums * channels * TAPS * WIDTH);
    for (long row = task * ROWS_A_TASK; row < last_row(w, task); row++) {
        const float *gradient = w->gradient + row * w->width * WIDTH;
        for (int channel = 0; channel < channels; channel++) {
            const float *x[TAPS];
            for (int t = 0; t < TAPS; t++)
                x[t] = corner(w, row) + w->offsets[channel * TAPS + t];
            for (int v = 0; v < VECTORS; v++) {
                lanes sum[TAPS] = {{0}};
                for (int p = 0; p < w->width; p++) {
                    lanes value = at(gradient, p, v);
                    for (int t = 0; t < TAPS; t++)
                        sum[t] += x[t][p * step] * value;
                }
                for (int t = 0; t < TAPS; t++)
                    for (int i = 0; i < LANES; i++)
                        sums[(channel * TAPS + t) * WIDTH + v * LANES + i] += sum[t][i];
            }
        }
    }
}

void widen_weights(const thin *x, int turned, const float *gradient, float *by_weights, int threads)
{
    widening w = {*x};
    prepare(&w);
    long tasks = ((long)x->images * w.height + ROWS_A_TASK - 1) / ROWS_A_TASK, size = x->channels * TAPS * WIDTH;
    w.gradient = gradient;
    w.sums = malloc(sizeof *w.sums * size * tasks);
    share(correlate_rows, &w, tasks, threads);
    for (long task = 1; task < tasks; task++)
        for (long i = 0; i < size; i++)
            w.sums[i] += w.sums[task * size + i];
    for (int channel = 0; channel < x->channels; channel++)
        for (int tap = 0; tap < TAPS; tap++)
            for (int c = 0; c < WIDTH; c++)
                by_weights[place(x, turned, channel, c, tap)] = w.sums[(channel * TAPS + tap) * WIDTH + c];
    free(w.sums);
}

typedef struct {
    const float *x;
    int images, height, width, outputs, padding, out_height, out_width;
    kernel weights[MOST_THIN];
    float *out;
} narrowing;

static inline float total(lanes x)
{
    float sum[LANES];
    memcpy(sum, &x, sizeof sum);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return sum[0];
}

static void narrow_rows(void *context, long task)
{
    const narrowing *n = context;
    long rows = (long)n->images * n->out_height, end = (task + 1) * ROWS_A_TASK;
    for (long row = task * ROWS_A_TASK; row < rows && row < end; row++) {
        int top = row % n->out_height - n->padding;
        const float *image = n->x + row / n->out_height * n->height * n->width * WIDTH;
        for (int column = 0; column < n->out_width; column++) {
            int left = column - n->padding;
            lanes sum[MOST_THIN] = {{0}};
            for (int i = top < 0 ? -top : 0; i < 3 && top + i < n->height; i++)
                for (int j = left < 0 ? -left : 0; j < 3 && left + j < n->width; j++)
                    for (int v = 0; v < VECTORS; v++) {
                        lanes value = at(image, (long)(top + i) * n->width + left + j, v);
                        for (int k = 0; k < n->outputs; k++)
                            sum[k] += value * at(n->weights[k][3 * i + j], 0, v);
                    }
            for (int k = 0; k < n->outputs; k++)
                n->out[(row * n->out_width + column) * n->outputs + k] = total(sum[k]);
        }
    }
}

void narrow(const float *x, int images, int height, int width, int outputs, int backwards, const float *weights,
            float *out, int threads)
{
    int padding = backwards ? 2 : 0;
    narrowing n = {x, images, height, width, outputs, padding, height + 2 * padding - 2, width + 2 * padding - 2};
    n.out = out;
    for (int k = 0; k < outputs; k++)
        for (int tap = 0; tap < TAPS; tap++)
            for (int c = 0; c < WIDTH; c++)
                n.weights[k][tap][c] = backwards ? weights[((size_t)c * outputs + k) * TAPS + TAPS - 1 - tap]
                                                 : weights[((size_t)k * WIDTH + c) * TAPS + tap];
    share(narrow_rows, &n, ((long)images * n.out_height + ROWS_A_TASK - 1) / ROWS_A_TASK, threads);
}
