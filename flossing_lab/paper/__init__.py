"""The paper, figure by figure: what each figure needs is run, drawn and judged."""
