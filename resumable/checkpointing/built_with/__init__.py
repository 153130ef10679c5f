"""What a launch was built with, compared with the launch of the checkpoint that it resumes from."""
