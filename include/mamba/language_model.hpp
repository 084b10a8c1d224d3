// MambaLMHeadModel alone, with saving and loading.
#pragma once

#include <mamba/model/language_model.hpp>
#include <mamba/model/save.hpp>
#include <mamba/model/save_folder.hpp>
#include <mamba/model/state_file.hpp>
#include <mamba/version.hpp>
