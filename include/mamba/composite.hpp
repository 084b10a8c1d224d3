// Everything for the composite function task and its like: models, the task, training, checkpoints.
#pragma once

#include <mamba/language_model.hpp>
#include <mamba/model/composite_model.hpp>
#include <mamba/model/inspect.hpp>
#include <mamba/task/composite_function.hpp>
#include <mamba/task/full_symmetry.hpp>
#include <mamba/task/inverse_sequence.hpp>
#include <mamba/train/checkpoint.hpp>
#include <mamba/train/metrics.hpp>
#include <mamba/train/optimizer.hpp>
#include <mamba/train/schedule.hpp>
#include <mamba/train/trainer.hpp>
