/* BatchNorm in training mode with LeakyReLU, forward and the three ways back, each in two passes over its maps.
 *
 * Maps are float32, `rows` pixels of WIDTH channels. Sums are gathered over BLOCK pixels in float32, then in float64,
 * chunk by chunk and in a fixed order, so that results do not depend on the number of threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "critic.h"
#include "lanes.h"
#include "pool.h"

enum { BLOCK = 64, CHUNK = 1024 };

/* x where the block's output is positive, slope * x elsewhere. */
static inline lanes rectified(lanes x, lanes output, float slope)
{
    bits positive = output > 0.0f;
    return (lanes)(((bits)x & positive) | ((bits)(slope * x) & ~positive));
}

typedef double partial[SUMS][WIDTH];

typedef struct {
    layer at;
    float *x;
    const float *other;
    partial *parts;
} gathering;

/* Of a chunk of x: parts[0] = its sum, parts[1] = sum of x * (raw - mean), with paired also parts[2] = sum of x * other.
 * With rectify, x is first passed through LeakyReLU's derivative, in place. */
static inline __attribute__((always_inline)) void gather_chunk(const gathering *g, long chunk, const int rectify,
                                                               const int paired)
{
    const layer l = g->at;
    long end = (chunk + 1) * CHUNK < l.rows ? (chunk + 1) * CHUNK : l.rows;
    memset(g->parts[chunk], 0, sizeof g->parts[chunk]);
    for (long start = chunk * CHUNK; start < end; start += BLOCK) {
        long stop = start + BLOCK < end ? start + BLOCK : end;
        for (int v = 0; v < VECTORS; v++) {
            lanes mean = at(l.mean, 0, v), sum[SUMS] = {{0}};
            for (long row = start; row < stop; row++) {
                lanes value = at(g->x, row, v);
                if (rectify) {
                    value = rectified(value, at(l.output, row, v), l.slope);
                    put(g->x, row, v, value);
                }
                sum[0] += value;
                sum[1] += value * (at(l.raw, row, v) - mean);
                if (paired)
                    sum[2] += value * at(g->other, row, v);
            }
            for (int s = 0; s < SUMS; s++)
                for (int i = 0; i < LANES; i++)
                    g->parts[chunk][s][v * LANES + i] += sum[s][i];
        }
    }
}

static void gather_back(void *context, long chunk) { gather_chunk(context, chunk, 1, 0); }
static void gather_along(void *context, long chunk) { gather_chunk(context, chunk, 0, 1); }

/* to[0] = sum of x, to[1] = sum of x * normalised raw, to[2] = sum of x * other. */
static void gather(void (*task)(void *, long), const layer *l, float *x, const float *other, double *to, int threads)
{
    long chunks = (l->rows + CHUNK - 1) / CHUNK;
    gathering g = {*l, x, other, malloc(chunks * sizeof(partial))};
    share(task, &g, chunks, threads);
    for (int s = 0; s < SUMS; s++)
        for (int c = 0; c < WIDTH; c++) {
            double sum = 0;
            for (long chunk = 0; chunk < chunks; chunk++)
                sum += g.parts[chunk][s][c];
            to[s * WIDTH + c] = s == 1 ? sum * l->rstd[c] : sum;
        }
    free(g.parts);
}

/* What one pass over the maps adds up: each with a factor for each channel, and a constant. */
typedef struct {
    layer at;
    const float *x, *adjoint, *tangent;
    float *out;
    float by_x[WIDTH], by_raw[WIDTH], by_adjoint[WIDTH], by_tangent[WIDTH], constant[WIDTH];
} combination;

static inline __attribute__((always_inline)) void combine_chunk(const combination *w, long chunk, const int second,
                                                                const int rectify)
{
    const layer l = w->at;
    long end = (chunk + 1) * CHUNK < l.rows ? (chunk + 1) * CHUNK : l.rows;
    for (long start = chunk * CHUNK; start < end; start += BLOCK) {
        long stop = start + BLOCK < end ? start + BLOCK : end;
        for (int v = 0; v < VECTORS; v++) {
            lanes by_x = at(w->by_x, 0, v), by_raw = at(w->by_raw, 0, v), mean = at(l.mean, 0, v);
            lanes by_adjoint = at(w->by_adjoint, 0, v), by_tangent = at(w->by_tangent, 0, v);
            lanes constant = at(w->constant, 0, v);
            for (long row = start; row < stop; row++) {
                lanes value = by_x * at(w->x, row, v) + by_raw * (at(l.raw, row, v) - mean) + constant;
                if (second)
                    value += by_adjoint * at(w->adjoint, row, v) + by_tangent * at(w->tangent, row, v);
                put(w->out, row, v, rectify ? rectified(value, at(l.output, row, v), l.slope) : value);
            }
        }
    }
}

static void combine_back(void *context, long chunk) { combine_chunk(context, chunk, 0, 0); }
static void combine_along(void *context, long chunk) { combine_chunk(context, chunk, 0, 1); }
static void combine_back_twice(void *context, long chunk) { combine_chunk(context, chunk, 1, 0); }

static void combine(void (*task)(void *, long), combination *w, int threads)
{
    share(task, w, (w->at.rows + CHUNK - 1) / CHUNK, threads);
}

/* scale * rstd * P(x), from the sums of x. */
static void projection(combination *w, const double *of_x)
{
    const layer *l = &w->at;
    for (int c = 0; c < WIDTH; c++) {
        double factor = (double)l->scale[c] * l->rstd[c];
        w->by_x[c] = factor;
        w->by_raw[c] = -factor * l->rstd[c] * of_x[WIDTH + c] / l->rows;
        w->constant[c] = -factor * of_x[c] / l->rows;
    }
}

typedef struct {
    const float *x;
    long rows;
    float slope;
    double (*parts)[2][WIDTH];
    float *out, mean[WIDTH], factor[WIDTH], constant[WIDTH];
} normalisation;

static void statistics_of_chunk(void *context, long chunk)
{
    const normalisation *n = context;
    double(*part)[WIDTH] = n->parts[chunk];
    long begin = chunk * CHUNK, end = begin + CHUNK < n->rows ? begin + CHUNK : n->rows;
    memset(part, 0, sizeof n->parts[chunk]);
    for (long start = begin; start < end; start += BLOCK) {
        long stop = start + BLOCK < end ? start + BLOCK : end, before = start - begin, count = stop - start;
        for (int v = 0; v < VECTORS; v++) {
            lanes sum = {0}, squares = {0};
            for (long row = start; row < stop; row++)
                sum += at(n->x, row, v);
            lanes centre = sum / (float)count;
            for (long row = start; row < stop; row++) {
                lanes deviation = at(n->x, row, v) - centre;
                squares += deviation * deviation;
            }
            /* Chan, Golub and LeVeque: means and squares of two sets give those of both. */
            for (int i = 0; i < LANES; i++) {
                double *of_mean = &part[0][v * LANES + i], *of_squares = &part[1][v * LANES + i];
                double difference = centre[i] - *of_mean;
                *of_mean += difference * count / (before + count);
                *of_squares += squares[i] + difference * difference * before * count / (before + count);
            }
        }
    }
}

static void normalise_chunk(void *context, long chunk)
{
    const normalisation *n = context;
    long end = (chunk + 1) * CHUNK < n->rows ? (chunk + 1) * CHUNK : n->rows;
    for (int v = 0; v < VECTORS; v++) {
        lanes centre = at(n->mean, 0, v), factor = at(n->factor, 0, v), constant = at(n->constant, 0, v);
        for (long row = chunk * CHUNK; row < end; row++) {
            lanes value = factor * (at(n->x, row, v) - centre) + constant;
            put(n->out, row, v, rectified(value, value, n->slope));
        }
    }
}

void normalise(const float *x, long rows, const float *scale, const float *shift, double eps, float slope, float *mean,
               float *variance, float *rstd, float *out, int threads)
{
    long chunks = (rows + CHUNK - 1) / CHUNK;
    normalisation n = {x, rows, slope, malloc(chunks * sizeof *n.parts), out, {0}, {0}, {0}};
    share(statistics_of_chunk, &n, chunks, threads);
    for (int c = 0; c < WIDTH; c++) {
        double whole_mean = 0, squares = 0;
        for (long chunk = 0; chunk < chunks; chunk++) {
            long before = chunk * CHUNK, count = rows - before < CHUNK ? rows - before : CHUNK;
            double difference = n.parts[chunk][0][c] - whole_mean;
            whole_mean += difference * count / (before + count);
            squares += n.parts[chunk][1][c] + difference * difference * before * count / (before + count);
        }
        n.mean[c] = mean[c] = whole_mean;
        variance[c] = squares / rows;
        rstd[c] = 1 / sqrt(squares / rows + eps);
        n.factor[c] = scale[c] * rstd[c];
        n.constant[c] = shift[c];
    }
    free(n.parts);
    share(normalise_chunk, &n, chunks, threads);
}

void back(const layer *l, float *gradient, double *of_gradient, float *result, int threads)
{
    combination w = {*l, gradient, NULL, NULL, result};
    gather(gather_back, l, gradient, NULL, of_gradient, threads);
    projection(&w, of_gradient);
    combine(combine_back, &w, threads);
}

void along(const layer *l, float *tangent, const float *adjoint, double *of_tangent, float *result, int threads)
{
    combination w = {*l, tangent, NULL, NULL, result};
    gather(gather_along, l, tangent, adjoint, of_tangent, threads);
    projection(&w, of_tangent);
    combine(combine_along, &w, threads);
}

void back_twice(const layer *l, float *gradient, const float *adjoint, const double *of_adjoint, const float *tangent,
                const double *of_tangent, float *result, float *by_scale, float *by_shift, int threads)
{
    combination w = {*l, gradient, adjoint, tangent, result};
    double of_gradient[SUMS * WIDTH], count = l->rows;
    gather(gather_back, l, gradient, NULL, of_gradient, threads);
    for (int c = 0; c < WIDTH; c++) {
        double rstd = l->rstd[c], total = of_gradient[c], dot = of_gradient[WIDTH + c];
        double adjoint_total = of_adjoint[c], adjoint_dot = of_adjoint[WIDTH + c];
        double tangent_total = of_tangent[c], tangent_dot = of_tangent[WIDTH + c];
        double paired = of_tangent[2 * WIDTH + c] - (adjoint_total * tangent_total + adjoint_dot * tangent_dot) / count;
        double by_adjoint = rstd / count * tangent_dot, by_tangent = rstd / count * adjoint_dot;
        double factor = l->scale[c] * rstd;
        by_scale[c] = dot + rstd * paired;
        by_shift[c] = total;
        dot -= 2 * by_adjoint * adjoint_dot;
        total -= by_adjoint * adjoint_total + by_tangent * tangent_total;
        w.by_x[c] = factor;
        w.by_adjoint[c] = -factor * by_adjoint;
        w.by_tangent[c] = -factor * by_tangent;
        w.by_raw[c] = -factor * rstd * (dot + paired * rstd) / count;
        w.constant[c] = -factor * total / count;
    }
    combine(combine_back_twice, &w, threads);
}
