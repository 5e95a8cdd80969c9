"""`python -m airl`: the version, and what there is to run."""

import airl

COMMANDS = {
    "airl.vit": "train, evaluate or use a Vision Transformer",
    "airl.seg": "cut objects out of pictures with a text prompt",
    "airl.app": "both on a page in the browser",
    "airl.check": "what this machine can do, and whether it does it right",
}


def main() -> None:
    print(f"AIRL {airl.__version__}\n")
    for module, purpose in COMMANDS.items():
        print(f"python -m {module:10} --help    {purpose}")


if __name__ == "__main__":
    main()
