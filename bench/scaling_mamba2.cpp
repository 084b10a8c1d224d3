#include "scaling_model.hpp"

std::vector<scaling::Model> scaling::mamba2_models() { return models_of<mamba::Mamba2<>>(); }
