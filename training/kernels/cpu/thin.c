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
        UNROLLED
        for (int p = 0; p < pixels; p++)
            sum[p] = (lanes){0};
        for (int t = 0; t < w->x.channels * TAPS; t++) {
            lanes weight = at(weights, t, v);
            UNROLLED
            for (int p = 0; p < pixels; p++)
                sum[p] += x[w->offsets[t] + p * step] * weight;
        }
        UNROLLED
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

/* One pixel of the result: taps from (top, left) to (bottom, right), of 3 x 3, lie within the map. */
static inline __attribute__((always_inline)) void narrow_pixel(const narrowing *n, const int outputs, const float *x,
                                                               const int top, const int bottom, const int left,
                                                               const int right, float *out)
{
    lanes sum[MOST_THIN] = {{0}};
    for (int i = top; i < bottom; i++)
        for (int j = left; j < right; j++)
            for (int v = 0; v < VECTORS; v++) {
                lanes value = at(x, (long)i * n->width + j, v);
                for (int k = 0; k < outputs; k++)
                    sum[k] += value * at(n->weights[k][3 * i + j], 0, v);
            }
    for (int k = 0; k < outputs; k++)
        out[k] = total(sum[k]);
}

static inline __attribute__((always_inline)) void narrow_rows(const narrowing *n, long task, const int outputs)
{
    long rows = (long)n->images * n->out_height, end = (task + 1) * ROWS_A_TASK;
    for (long row = task * ROWS_A_TASK; row < rows && row < end; row++) {
        int y = row % n->out_height - n->padding, top = y < 0 ? -y : 0, bottom = n->height - y < 3 ? n->height - y : 3;
        const float *first = n->x + (row / n->out_height * n->height + y) * n->width * WIDTH;
        for (int column = 0; column < n->out_width; column++) {
            int x = column - n->padding, left = x < 0 ? -x : 0, right = n->width - x < 3 ? n->width - x : 3;
            float *out = n->out + (row * n->out_width + column) * outputs;
            if (top == 0 && bottom == 3 && left == 0 && right == 3)
                narrow_pixel(n, outputs, first + (long)x * WIDTH, 0, 3, 0, 3, out);
            else
                narrow_pixel(n, outputs, first + (long)x * WIDTH, top, bottom, left, right, out);
        }
    }
}

static void narrow_to_one(void *context, long task) { narrow_rows(context, task, 1); }
static void narrow_to_two(void *context, long task) { narrow_rows(context, task, 2); }
static void narrow_to_three(void *context, long task) { narrow_rows(context, task, 3); }

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
    void (*task)(void *, long) = outputs == 1 ? narrow_to_one : outputs == 2 ? narrow_to_two : narrow_to_three;
    share(task, &n, ((long)images * n.out_height + ROWS_A_TASK - 1) / ROWS_A_TASK, threads);
}
