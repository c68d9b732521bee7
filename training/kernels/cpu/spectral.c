/* Spectral normalisation, as training.objectives.spectral_norms has it, in float64. */
#include <math.h>
#include <stdlib.h>

#include "critic.h"

enum { SQUARINGS = 18 };

/* out = x y, (rows, inner) by (inner, columns). */
static void product(const double *x, const double *y, int rows, int inner, int columns, double *out)
{
    for (int i = 0; i < rows; i++) {
        double *row = out + (size_t)i * columns;
        for (int j = 0; j < columns; j++)
            row[j] = 0;
        for (int k = 0; k < inner; k++)
            for (int j = 0; j < columns; j++)
                row[j] += x[(size_t)i * inner + k] * y[(size_t)k * columns + j];
    }
}

static double to_trace_one(double *x, int rows)
{
    double trace = 0;
    for (int i = 0; i < rows; i++)
        trace += x[(size_t)i * rows + i];
    for (long i = 0; i < (long)rows * rows; i++)
        x[i] /= trace;
    return trace;
}

void unit(const float *weight, int rows, int columns, float *quotient, float *norm, float *direction)
{
    size_t size = (size_t)rows * columns, square = (size_t)rows * rows;
    double *w = malloc(sizeof *w * (2 * size + 2 * square)), *other = w + size, *power = other + size;
    double *next = power + square, sum = 0;
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < columns; k++)
            w[i * (size_t)columns + k] = other[k * (size_t)rows + i] = weight[i * (size_t)columns + k];
    product(w, other, rows, columns, rows, power);
    to_trace_one(power, rows);
    for (int squaring = 0; squaring < SQUARINGS; squaring++) {
        double *former = power;
        product(power, power, rows, rows, rows, next);
        power = next;
        next = former;
        if (1 - to_trace_one(power, rows) < 1e-14) /* it was a projection onto one vector */
            break;
    }
    product(power, w, rows, rows, columns, other);
    for (size_t i = 0; i < size; i++)
        sum += other[i] * w[i];
    *norm = sqrt(sum);
    for (size_t i = 0; i < size; i++) {
        quotient[i] = w[i] / sqrt(sum);
        direction[i] = other[i] / sqrt(sum);
    }
    free(w);
}
